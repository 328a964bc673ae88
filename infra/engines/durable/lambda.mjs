// A stand-in for Lambda's durable executions, by the test runner of AWS's SDK. TestDurableFunction in infra/local starts it.
// Each line of standard input, {"orderId"}, starts the workflow in workflow.mjs, which is the one of the guide. Each result is a line of
// standard output, {"orderId", "result"}. A server on loopback serves the calls that complete callbacks.
// The first line of the output is {"url"}, the server's. The first line of the input is {"endpoint"}, the URL of the Invoke API.
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { LocalDurableTestRunner, WaitingOperationStatus } from "@aws/durable-execution-sdk-js-testing";

const callbacks = new Map(); // the operations that wait, by callback id
const path = /^\/2025-12-01\/durable-execution-callbacks\/([^/]+)\/(succeed|fail)$/;
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) {
    chunks.push(chunk);
  }
  const body = Buffer.concat(chunks).toString();
  const [, id, verb] = path.exec(request.url) ?? [];
  const operation = callbacks.get(decodeURIComponent(id ?? ""));
  if (!operation) {
    response.writeHead(400, { "x-amzn-errortype": "CallbackTimeoutException", "content-type": "application/json" }).end("{}");
    return;
  }
  callbacks.delete(decodeURIComponent(id));
  if (verb === "succeed") {
    await operation.sendCallbackSuccess(body);
  } else {
    await operation.sendCallbackFailure(JSON.parse(body));
  }
  response.writeHead(200, { "content-type": "application/json" }).end("{}");
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
print({ url: `http://127.0.0.1:${server.address().port}` });

async function start(handler, orderId) {
  const runner = new LocalDurableTestRunner({ handlerFunction: handler });
  const execution = runner.run({ payload: { orderId } });
  const operation = runner.getOperation("payment");
  await operation.waitForData(WaitingOperationStatus.STARTED);
  callbacks.set(operation.getCallbackDetails().callbackId, operation);
  print({ orderId, result: (await execution).getResult() });
}

let handler;
await LocalDurableTestRunner.setupTestEnvironment({ skipTime: false });
for await (const line of createInterface({ input: process.stdin })) {
  const { endpoint, orderId } = JSON.parse(line);
  if (endpoint) {
    process.env.AWS_ENDPOINT_URL_LAMBDA = endpoint;
    ({ handler } = await import("./workflow.mjs"));
  } else {
    start(handler, orderId).catch((error) => print({ orderId, error: error.message }));
  }
}
process.exit();
