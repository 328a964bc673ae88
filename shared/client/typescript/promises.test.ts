// Runs against the local runner, whose ready file is in READY_FILE.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import {
  byId, byKey, key64, ProblemError, PromiseCancelledError, PromiseRejectedError, Promises, PromiseTimedOutError, verifyDelivery,
} from "./promises.js";

const ready = JSON.parse(readFileSync(process.env["READY_FILE"]!, "utf8")) as { httpUrl: string; tenant: string; apiKey: string };
const options = { baseUrl: ready.httpUrl, tenant: ready.tenant, apiKey: ready.apiKey };
const promises = new Promises(options);

const create = (more: { idempotencyKey?: string; timeoutMs?: number } = {}) =>
  promises.create<{ paid: boolean }>({ workflowId: randomUUID(), name: "payment", ...more });

async function listen(listener: RequestListener): Promise<{ url: string; close: () => void }> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close: () => { server.closeAllConnections(); server.close(); } };
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

test("create, await and resolve", async () => {
  const created = await create();
  assert.equal(created.created, true);
  assert.equal(created.state, "pending");
  const value = promises.await<{ paid: boolean }>(created.identifier);
  const settled = await promises.resolve(byId(created.promiseId), { paid: true }, { comment: "by a test" });
  assert.equal(settled.outcome, "settled");
  assert.deepEqual(await value, { paid: true });
  assert.equal((await promises.resolve(created.identifier, { paid: true })).outcome, "duplicate");
  assert.equal((await promises.resolve(created.identifier, null)).outcome, "conflict");
  assert.equal((await promises.get<{ paid: boolean }>(created.identifier)).value?.paid, true);
});

test("reject, cancel and the deadline", async () => {
  const rejected = await create();
  await promises.reject(rejected.identifier, "card declined");
  await assert.rejects(promises.await(rejected.identifier), (e) => e instanceof PromiseRejectedError && e.message === "card declined" && e.promise.state === "rejected");
  const cancelled = await create();
  await promises.cancel(cancelled.identifier, { reason: "withdrawn" });
  await assert.rejects(promises.await(cancelled.identifier), (e) => e instanceof PromiseCancelledError && e.message === "withdrawn");
  const late = await create({ timeoutMs: 100 });
  await assert.rejects(promises.await(late.identifier), PromiseTimedOutError);
});

test("odd keys", async () => {
  assert.equal(byKey("stripe:ch_abc123"), "key:stripe:ch_abc123");
  assert.equal(byKey("a/b"), "key64:YS9i");
  assert.equal(byKey(".."), "key64:Li4");
  const alphabet = ["/", "?", "#", "%", "%2F", " ", "+", "&", "=", ".", "..", "\\", "é", "日", "😀", "\u0001", "\u2028", '"', "A", ":", "~", "\u00ad"];
  for (let i = 0; i < 40; i++) {
    const key = randomUUID().slice(0, 4) + Array.from({ length: 1 + (i % 6) }, () => alphabet[Math.floor(Math.random() * alphabet.length)]).join("");
    const created = await create({ idempotencyKey: key });
    assert.equal(created.identifier, byKey(key), key);
    assert.equal((await promises.get(key64(key))).promiseId, created.promiseId, key);
    assert.equal((await promises.resolve(byKey(key), i)).promiseId, created.promiseId, key);
  }
  assert.throws(() => byKey("\ud800"), RangeError);
});

test("a settlement that comes before its promise", async () => {
  const key = `early/${randomUUID()}`;
  assert.equal((await promises.resolve(byKey(key), { paid: true }, { holdSeconds: 60 })).outcome, "held");
  const created = await create({ idempotencyKey: key });
  assert.equal(created.state, "resolved");
  assert.equal(await promises.await<{ paid: boolean }>(created.identifier).then((v) => v.paid), true);
});

test("problems", async () => {
  await assert.rejects(promises.get(byId(randomUUID())), (e) => e instanceof ProblemError && e.code === "not_found" && e.status === 404);
  await assert.rejects(promises.create({ name: "" , workflowId: "w" }), (e) => e instanceof ProblemError && e.code === "invalid_name" && e.problem?.field === "name");
  await assert.rejects(promises.get("nonsense/../x"), (e) => e instanceof ProblemError && e.status < 500);
  const created = await create();
  await promises.resolve(created.identifier, 1);
  await assert.rejects(promises.resolve(created.identifier, 2, { strict: true }), (e) => e instanceof ProblemError && e.code === "conflict" && e.problem?.state === "resolved");
  await assert.rejects(promises.resolve(created.identifier, undefined), TypeError);
  const stranger = new Promises({ ...options, apiKey: "prk_secret" });
  await assert.rejects(stranger.get(created.identifier), (e) => e instanceof ProblemError && e.status === 403 && e.code === undefined && !String(e).includes("prk_"));
});

test("an aborted call", async () => {
  const created = await create();
  const began = Date.now();
  await assert.rejects(promises.await(created.identifier, { signal: AbortSignal.timeout(300) }), { name: "TimeoutError" });
  assert.ok(Date.now() - began < 15_000, "the call waits for 20 seconds otherwise");
});

test("retries", async () => {
  let calls = 0;
  const target = await create();
  const server = await listen(async (request, response) => {
    const body = (await bodyOf(request)).toString();
    switch (++calls) {
      case 1: return void request.socket.destroy();
      case 2: return void response.writeHead(503, { "retry-after": "1", "content-type": "application/json" }).end('{"message":"Service Unavailable"}');
      case 3: { // the call is applied, and its answer is lost
        await fetch(ready.httpUrl + request.url!, { method: request.method!, headers: { authorization: request.headers.authorization!, "content-type": "application/json" }, body });
        return void request.socket.destroy();
      }
      default: {
        const answer = await fetch(ready.httpUrl + request.url!, { method: request.method!, headers: { authorization: request.headers.authorization!, "content-type": "application/json" }, body });
        return void response.writeHead(answer.status, { "content-type": answer.headers.get("content-type")! }).end(await answer.text());
      }
    }
  });
  const began = Date.now();
  const settled = await new Promises({ ...options, baseUrl: server.url }).resolve(target.identifier, 1);
  assert.deepEqual([calls, settled.outcome, settled.state], [4, "duplicate", "resolved"]);
  assert.ok(Date.now() - began >= 1000, "Retry-After");
  server.close();
});

test("what is not repeated, and what ends", async () => {
  let calls = 0;
  const server = await listen((_, response) => {
    calls++;
    response.writeHead(calls === 1 ? 302 : 503, { location: "http://127.0.0.1:1/" }).end();
  });
  const client = new Promises({ ...options, baseUrl: server.url, attempts: 3 });
  await assert.rejects(client.get(byId(randomUUID())), (e) => e instanceof ProblemError && e.status === 302);
  assert.equal(calls, 1);
  await assert.rejects(client.get(byId(randomUUID())), (e) => e instanceof ProblemError && e.status === 503);
  assert.equal(calls, 4);
  server.close();
  await assert.rejects(client.get(byId(randomUUID())), TypeError);
});

test("await waits through an outage, and pauses if no more calls may wait", async () => {
  const created = await create();
  let calls = 0;
  const paths: string[] = [];
  const server = await listen((request, response) => {
    paths.push(request.url!);
    if (++calls > 1 && calls < 8) return void request.socket.destroy();
    if (calls <= 8) return void response.writeHead(200, { "content-type": "application/json", "retry-after": "1" }).end(JSON.stringify({ ...created }));
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ ...created, state: "resolved", value: 7 }));
  });
  const client = new Promises({ ...options, baseUrl: server.url, attempts: 1 });
  assert.equal(await client.await(byKey("order/1")), 7);
  assert.equal(calls, 9);
  assert.ok(paths[0]!.includes("/key64:b3JkZXIvMQ/wait") && paths.slice(1).every((path) => path.includes(`/id:${created.promiseId}/wait`)), "it goes on by the id");
  server.close();
  await assert.rejects(client.await(created.identifier), TypeError, "a first call that fails");
});

test("a delivery is verified", async () => {
  const received: { headers: IncomingMessage["headers"]; body: Buffer }[] = [];
  let arrived = () => {};
  const first = new Promise<void>((resolve) => (arrived = resolve));
  const server = await listen(async (request, response) => {
    received.push({ headers: request.headers, body: await bodyOf(request) });
    response.writeHead(204).end();
    arrived();
  });
  const name = `t${randomUUID().slice(0, 8)}`;
  const put = await fetch(`${ready.httpUrl}/api/tenants/${ready.tenant}/destinations/${name}`, {
    method: "PUT", headers: { authorization: `Bearer ${ready.apiKey}`, "content-type": "application/json" }, body: JSON.stringify({ kind: "https", url: `${server.url}/hook` }),
  });
  assert.equal(put.status, 201);
  const { secret } = (await put.json()) as { secret: string };
  const created = await promises.create({ workflowId: randomUUID(), name: "payment", notify: [{ destination: name }] });
  await promises.resolve(created.identifier, { paid: "é" });
  await first;
  server.close();
  const { headers, body } = received[0]!;
  const other = "whsec_" + Buffer.alloc(32).toString("base64");
  const message = await verifyDelivery<{ paid: string }>([other, secret], headers, body);
  assert.equal(message.type, "promise.resolved");
  assert.equal(message.data.promiseId, created.promiseId);
  assert.equal(message.data.value?.paid, "é");
  await verifyDelivery(secret, new Headers(headers as Record<string, string>), body.toString("utf8"));
  const changed = Buffer.from(body);
  changed[changed.length - 2]! ^= 1;
  await assert.rejects(verifyDelivery(secret, headers, changed), /no signature/);
  await assert.rejects(verifyDelivery(other, headers, body), /no signature/);
  await assert.rejects(verifyDelivery(secret, { ...headers, "webhook-id": "x" }, body), /no signature/);
  await assert.rejects(verifyDelivery(secret, { ...headers, "webhook-timestamp": undefined }, body), /webhook-timestamp/);
  await assert.rejects(verifyDelivery(secret, headers, body, new Date(Date.now() + 301_000)), /five minutes/);
  await assert.rejects(verifyDelivery(secret, headers, body, new Date(Date.now() - 310_000)), /five minutes/);
  await assert.rejects(verifyDelivery("whsec_", headers, body), /a secret is/);
});
