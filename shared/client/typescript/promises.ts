// The client of promises, durable promises for workflow engines. It is one file without
// dependencies, for Node 20 or later and for browsers: copy it into a project.
//
// Numbers in a value are those of JSON.parse, so an integer beyond 2^53 loses digits. Send
// such numbers as texts.

/** Where and how a client calls. */
export interface Options {
  /** The address of the API, such as http://127.0.0.1:3000. */
  baseUrl: string;
  /** The slug of the tenant. */
  tenant: string;
  /** An API key of the tenant, or a promise token. No error contains it. */
  apiKey: string;
  /** The number of attempts of a call, 5 by default. await is not limited by it. */
  attempts?: number;
  /** The time of one attempt in milliseconds, 30,000 by default. A wait takes longer. */
  timeoutMs?: number;
}

/** A call that can be given up. */
export interface CallOptions {
  signal?: AbortSignal;
}

export interface SettleOptions extends CallOptions {
  /** Kept with the settlement: 1 to 1,000 characters. */
  comment?: string;
  /** true: the outcomes conflict, timed_out and cancelled are errors. */
  strict?: boolean;
}

export interface HoldOptions extends SettleOptions {
  /** With an identifier by key: how long the settlement waits for a promise that does not exist yet. */
  holdSeconds: number;
}

export type DurablePromise<T = unknown> = components["schemas"]["Promise"] & { value?: T };
export type CreatedPromise<T = unknown> = components["schemas"]["CreatedPromise"] & { value?: T };
export type CreatePromise = components["schemas"]["CreatePromise"];
export type Settlement = components["schemas"]["PromiseSettlement"];
export type HeldSettlement = components["schemas"]["HeldSettlement"];
export type Problem = components["schemas"]["Problem"];
export type Code = components["schemas"]["Code"];

/** A message to a destination. Its id is the same for every attempt. */
export interface Delivery<T = unknown> {
  id: string;
  type: "promise.resolved" | "promise.rejected" | "promise.cancelled" | "promise.timed_out" | "destination.test";
  timestamp: string;
  tenant: string;
  data: DurablePromise<T> & { valueOmitted?: boolean };
}

/**
 * The service refused the call, or API Gateway did. Decide by code, which is absent if API
 * Gateway answered. Nothing was written, unless status is 500 or above.
 */
export class ProblemError extends Error {
  override readonly name = "ProblemError";
  readonly code: Code | undefined;

  constructor(
    readonly status: number,
    /** The whole problem, if the service sent one. */
    readonly problem?: Problem,
    message = "",
  ) {
    super(problem ? `${problem.code}: ${problem.detail}` : `the API answered ${status}${message && ": " + message}`);
    this.code = problem?.code;
  }
}

/** The promise was settled otherwise than by a resolution. */
export class NotResolvedError extends Error {
  override readonly name: string = "NotResolvedError";

  constructor(
    readonly promise: DurablePromise,
    message: string,
  ) {
    super(message);
  }
}

/** The promise was rejected. The message is its error. */
export class PromiseRejectedError extends NotResolvedError {
  override readonly name = "PromiseRejectedError";
}

/** The workflow cancelled the promise. The message is its reason. */
export class PromiseCancelledError extends NotResolvedError {
  override readonly name = "PromiseCancelledError";
}

/** The deadline of the promise passed. */
export class PromiseTimedOutError extends NotResolvedError {
  override readonly name = "PromiseTimedOutError";
}

/** Identifies a promise by its id, which is a UUID. */
export const byId = (id: string): string => `id:${id}`;

/**
 * Identifies a promise by its idempotency key, in the form that every path and every batch
 * takes: key: if a path can carry all characters, and key64: otherwise.
 */
export function byKey(key: string): string {
  return /^[A-Za-z0-9._~:-]+$/.test(key) && !/^\.+$/.test(key) ? `key:${key}` : key64(key);
}

/** Identifies a promise by its idempotency key in base64url. */
export function key64(key: string): string {
  if (/[\p{Surrogate}\uFFFD]/u.test(key)) {
    throw new RangeError("an idempotency key is Unicode text without U+FFFD and unpaired surrogates");
  }
  const base64 = btoa(String.fromCharCode(...new TextEncoder().encode(key)));
  return "key64:" + base64.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

interface Call extends CallOptions {
  body?: unknown;
  query?: Record<string, string>;
  attempts?: number;
  timeoutMs?: number;
}

interface Answer<T> {
  body: T;
  retryAfterMs: number | undefined;
}

const retried = new Set([429, 500, 502, 503, 504]);
const waitSeconds = 20;

/**
 * Calls the HTTP API as one tenant. Every call is safe to repeat, so a call that failed, or
 * whose answer was lost, is repeated with growing pauses: after a lost answer, a settlement
 * that was applied has the outcome duplicate. Every create with tokens makes new tokens.
 * A call ends with a ProblemError, with the reason of its signal, or, if no answer came,
 * with the error of fetch.
 */
export class Promises {
  readonly #base: string;
  readonly #apiKey: string;
  readonly #attempts: number;
  readonly #timeoutMs: number;

  constructor(options: Options) {
    this.#base = `${options.baseUrl.replace(/\/+$/, "")}/api/tenants/${encodeURIComponent(options.tenant)}/promises`;
    this.#apiKey = options.apiKey;
    this.#attempts = options.attempts ?? 5;
    this.#timeoutMs = options.timeoutMs ?? 30_000;
  }

  /** Creates a promise, or returns the one with the same workflow execution and name. */
  async create<T = unknown>(draft: CreatePromise, options: CallOptions = {}): Promise<CreatedPromise<T>> {
    return (await this.#call<CreatedPromise<T>>("POST", "", { ...options, body: draft })).body;
  }

  /** Reads a promise. */
  async get<T = unknown>(identifier: string, options: CallOptions = {}): Promise<DurablePromise<T>> {
    return (await this.#call<DurablePromise<T>>("GET", `/${path(identifier)}`, options)).body;
  }

  /**
   * Waits until the promise is settled, however long that takes, and returns its value. A
   * failure of the first call ends it, like any call. Once a call has succeeded, it outlives
   * an outage, and pauses while the service lets no more calls wait. To give up, abort the
   * signal. Throws a PromiseRejectedError, PromiseCancelledError or PromiseTimedOutError if
   * the promise is not resolved. It goes on by the promise's id, because a key may name
   * another promise later.
   */
  async await<T = unknown>(identifier: string, options: CallOptions = {}): Promise<T> {
    for (let attempts = this.#attempts; ; attempts = Infinity) {
      const begun = Date.now();
      const answer = await this.#call<DurablePromise<T>>("GET", `/${path(identifier)}/wait`, {
        ...options,
        query: { waitSeconds: String(waitSeconds) },
        attempts,
        timeoutMs: this.#timeoutMs + waitSeconds * 1000,
      });
      const promise = answer.body;
      identifier = byId(promise.promiseId);
      switch (promise.state) {
        case "pending":
          break;
        case "resolved":
          return promise.value as T;
        case "rejected":
          throw new PromiseRejectedError(promise, promise.error ?? "the promise was rejected");
        case "cancelled":
          throw new PromiseCancelledError(promise, promise.reason ?? "the promise was cancelled");
        case "timed_out":
          throw new PromiseTimedOutError(promise, "the deadline of the promise passed");
      }
      if (answer.retryAfterMs !== undefined || Date.now() - begun < 1000) {
        await sleep((answer.retryAfterMs ?? 1000) * (1 + Math.random() / 2), options.signal);
      }
    }
  }

  /**
   * Resolves a promise with any JSON value. Decide by the state of the answer. With
   * holdSeconds the answer may be about a settlement that waits: it has no state then.
   */
  async resolve(identifier: string, value: unknown, options?: SettleOptions): Promise<Settlement>;
  async resolve(identifier: string, value: unknown, options: HoldOptions): Promise<Settlement | HeldSettlement>;
  async resolve(identifier: string, value: unknown, options: SettleOptions = {}): Promise<Settlement | HeldSettlement> {
    if (JSON.stringify(value) === undefined) {
      throw new TypeError("the value has no JSON: send null in place of undefined");
    }
    return this.#settle(identifier, "resolve", { value }, options);
  }

  /** Rejects a promise with an error, and answers as resolve does. */
  async reject(identifier: string, error: string, options?: SettleOptions): Promise<Settlement>;
  async reject(identifier: string, error: string, options: HoldOptions): Promise<Settlement | HeldSettlement>;
  async reject(identifier: string, error: string, options: SettleOptions = {}): Promise<Settlement | HeldSettlement> {
    return this.#settle(identifier, "reject", { error }, options);
  }

  /** Cancels a promise, for the workflow that owns it. */
  async cancel(identifier: string, options: SettleOptions & { reason?: string } = {}): Promise<Settlement> {
    return this.#settle<Settlement>(identifier, "cancel", { reason: options.reason }, options);
  }

  async #settle<T = Settlement | HeldSettlement>(
    identifier: string,
    verb: string,
    body: object,
    options: SettleOptions & Partial<HoldOptions>,
  ): Promise<T> {
    const answer = await this.#call<T>("POST", `/${path(identifier)}/${verb}`, {
      ...(options.signal && { signal: options.signal }),
      query: options.strict ? { strict: "true" } : {},
      body: { ...body, comment: options.comment, holdSeconds: options.holdSeconds },
    });
    return answer.body;
  }

  async #call<T>(method: string, target: string, call: Call): Promise<Answer<T>> {
    const query = new URLSearchParams(call.query).toString();
    const url = this.#base + target + (query && `?${query}`);
    const body = call.body === undefined ? undefined : JSON.stringify(call.body);
    for (let attempt = 1; ; attempt++) {
      const last = attempt >= (call.attempts ?? this.#attempts);
      let pauseMs = Math.random() * Math.min(10_000, 200 * 2 ** Math.min(attempt, 10));
      try {
        const answer = await this.#attempt<T>(method, url, body, call);
        if (!(answer instanceof ProblemError)) {
          return { body: answer.body, retryAfterMs: answer.retryAfterMs };
        }
        if (last || !retried.has(answer.status)) {
          throw answer;
        }
        pauseMs += retryAfter.get(answer) ?? 0;
      } catch (error) {
        call.signal?.throwIfAborted();
        if (last || error instanceof ProblemError) {
          throw error;
        }
      }
      await sleep(pauseMs, call.signal);
    }
  }

  async #attempt<T>(method: string, url: string, body: string | undefined, call: Call): Promise<Answer<T> | ProblemError> {
    const limit = AbortSignal.timeout(call.timeoutMs ?? this.#timeoutMs);
    const response = await fetch(url, {
      method,
      headers: { authorization: `Bearer ${this.#apiKey}`, ...(body !== undefined && { "content-type": "application/json" }) },
      body: body ?? null,
      redirect: "manual", // the API key is for this host alone
      signal: call.signal ? AbortSignal.any([call.signal, limit]) : limit,
    });
    const text = await response.text();
    const seconds = Number(response.headers.get("retry-after") ?? NaN);
    const retryAfterMs = seconds >= 0 ? seconds * 1000 : undefined;
    if (response.ok) {
      return { body: JSON.parse(text) as T, retryAfterMs };
    }
    const error = problemError(response, text);
    if (retryAfterMs !== undefined) {
      retryAfter.set(error, retryAfterMs);
    }
    return error;
  }
}

const retryAfter = new WeakMap<ProblemError, number>();

function problemError(response: Response, text: string): ProblemError {
  let message = "";
  if (/json/.test(response.headers.get("content-type") ?? "")) {
    try {
      const answer = JSON.parse(text) as Partial<Problem> & { message?: unknown };
      if (typeof answer.code === "string") {
        return new ProblemError(response.status, answer as Problem);
      }
      message = typeof answer.message === "string" ? answer.message : "";
    } catch {
      // an answer of a proxy
    }
  }
  return new ProblemError(response.status, undefined, message);
}

/** Escapes an identifier for a path, which byKey does not need. */
function path(identifier: string): string {
  return encodeURIComponent(identifier).replaceAll("%3A", ":");
}

function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const aborted = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    }, ms);
    signal?.addEventListener("abort", aborted, { once: true });
  });
}

/**
 * Verifies a message to a destination of the kind https, which is a Standard Webhook, and
 * returns it. The body is the bytes as they came: a body that was parsed and written again
 * has other bytes. secrets are those of the destination, two while one replaces the other.
 * The same message may come more than once: know it by its id.
 */
export async function verifyDelivery<T = unknown>(
  secrets: string | readonly string[],
  headers: Headers | Record<string, string | readonly string[] | undefined>,
  body: string | Uint8Array,
  now: Date = new Date(),
): Promise<Delivery<T>> {
  const header = (name: string): string => {
    const value = headers instanceof Headers ? headers.get(name) : headers[name];
    if (typeof value !== "string") {
      throw new Error(`the message has no header ${name}, or several`);
    }
    return value;
  };
  const [id, timestamp, signatures] = [header("webhook-id"), header("webhook-timestamp"), header("webhook-signature")];
  if (!/^\d{1,15}$/.test(timestamp) || Math.abs(now.getTime() / 1000 - Number(timestamp)) > 300) {
    throw new Error("the message was signed more than five minutes before or after now");
  }
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const begin = new TextEncoder().encode(`${id}.${timestamp}.`);
  const signed = new Uint8Array(begin.length + bytes.length);
  signed.set(begin);
  signed.set(bytes, begin.length);
  for (const secret of typeof secrets === "string" ? [secrets] : secrets) {
    const key = await crypto.subtle.importKey("raw", secretBytes(secret), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
    for (const signature of signatures.split(" ")) {
      const given = signature.startsWith("v1,") && base64Bytes(signature.slice(3));
      if (given && (await crypto.subtle.verify("HMAC", key, given, signed))) {
        return JSON.parse(new TextDecoder().decode(bytes)) as Delivery<T>;
      }
    }
  }
  throw new Error("no signature of the message is valid");
}

function secretBytes(secret: string): Uint8Array<ArrayBuffer> {
  const bytes = secret.startsWith("whsec_") && base64Bytes(secret.slice("whsec_".length));
  if (!bytes || bytes.length < 24) {
    throw new Error("a secret is whsec_ and the base64 of at least 24 bytes");
  }
  return bytes;
}

function base64Bytes(text: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  } catch {
    return undefined;
  }
}

// From here on: what openapi-typescript 7.13.0 makes of shared/openapi/openapi.yaml.

export interface components {
    schemas: {
        /**
         * @description What went wrong. Later versions may add codes.
         * @enum {string}
         */
        Code: "malformed_json" | "trailing_data" | "invalid_utf8" | "nul_character" | "unknown_field" | "duplicate_field" | "missing_field" | "wrong_type" | "out_of_range" | "invalid_name" | "invalid_key" | "invalid_uuid" | "invalid_identifier" | "invalid_metadata" | "invalid_slug" | "invalid_parameter" | "value_too_large" | "unsupported_media_type" | "unauthenticated" | "forbidden" | "not_found" | "key_conflict" | "create_conflict" | "conflict" | "timed_out" | "cancelled" | "invalid_notify" | "unknown_destination" | "destination_disabled" | "rule_failed" | "quota_exceeded" | "unavailable" | "internal";
        /** @description Either `workflowExecutionId` or `workflowId`, and a name. */
        CreatePromise: {
            /** @description What the outside already knows, such as `stripe:ch_abc123`. */
            idempotencyKey?: string;
            /** @description Default: 86400. */
            idempotencyKeyTtlSeconds?: number;
            /** @description For programs; at most 64 KiB. */
            metadata?: {
                [key: string]: unknown;
            };
            /** @description Unique in the workflow execution. */
            name: string;
            /** @description Who is notified of the settlement. Absent, it is the tenant's default destination; empty, no one. */
            notify?: components["schemas"]["Target"][];
            onTimeout?: components["schemas"]["OnTimeout"];
            /**
             * Format: date-time
             * @description The deadline. It may be past. Not with `timeoutMs`.
             */
            timeoutAt?: string;
            /**
             * Format: int64
             * @description The deadline from now. Not with `timeoutAt`.
             */
            timeoutMs?: number;
            tokens?: components["schemas"]["Tokens"];
            /**
             * Format: uuid
             * @description A random UUID. The tenant that uses an id first owns it.
             */
            workflowExecutionId?: string;
            /** @description An engine's id. The service derives the UUID from it. */
            workflowId?: string;
        };
        CreatedPromise: components["schemas"]["Promise"] & {
            /** @description False if the promise existed. */
            created: boolean;
            /** @description The form that works in every path and batch. */
            identifier: string;
        };
        Delivery: {
            attempts: number;
            /** Format: date-time */
            createdAt: string;
            /**
             * Format: uuid
             * @description Also the id of the message, the same for every attempt.
             */
            deliveryId: string;
            destination: string;
            /** Format: date-time */
            dueAt?: string;
            endReason?: string;
            /** Format: date-time */
            endedAt?: string;
            kind: components["schemas"]["DestinationKind"];
            /** Format: date-time */
            lastAttemptAt?: string;
            lastError?: string;
            /** @description The HTTP status of the last answer. */
            lastStatus?: number;
            /** Format: uuid */
            promiseId?: string;
            state: components["schemas"]["DeliveryState"];
        };
        /** @enum {string} */
        DeliveryState: "waiting" | "due" | "delivered" | "gone" | "dead";
        /** @enum {string} */
        DestinationKind: "https" | "sqs" | "sns" | "eventbridge" | "lambda" | "email" | "stepFunctions" | "durableExecution";
        DestinationName: string;
        /** @description No promise has the key yet. The first held settlement settles the next promise of the key; `duplicate` and `conflict` compare this call with it. */
        HeldSettlement: {
            /**
             * Format: date-time
             * @description The end of the wait.
             */
            expiresAt: string;
            idempotencyKey: string;
            identifier: string;
            /** @enum {string} */
            outcome: "held" | "duplicate" | "conflict";
        };
        /** @description The outcome at the deadline, in place of `timed_out`. */
        OnTimeout: {
            resolve: components["schemas"]["Value"];
        } | {
            reject: string;
        };
        /**
         * @description The effect of a settle call. `settled`: this call settled the promise. `duplicate`: it was settled in the same way. `conflict`: it was settled in
         *     another way. `timed_out`, `cancelled`: the deadline or the workflow came first. `held`: the settlement waits for the next promise of the key.
         * @enum {string}
         */
        Outcome: "settled" | "duplicate" | "conflict" | "timed_out" | "cancelled" | "held";
        /**
         * @description An error (RFC 9457). With 409 from a settle call or an extend it has the fields of the settlement, too.
         * @example {
         *       "code": "unknown_field",
         *       "detail": "There is no such field. The fields are: value, comment, holdSeconds.",
         *       "field": "valu",
         *       "status": 400,
         *       "title": "Unknown field",
         *       "type": "https://github.com/flovyn/promises/blob/main/functions/README.md#unknown_field"
         *     }
         */
        Problem: {
            alreadyResolved?: boolean;
            code: components["schemas"]["Code"];
            /** @description What was wrong and what to send instead. For people; it may change. */
            detail: string;
            /**
             * Format: uuid
             * @description With `key_conflict` and `create_conflict`.
             */
            existingPromiseId?: string;
            /** Format: date-time */
            expiresAt?: string;
            /** @description The field, such as `notify[1].stepFunctions.taskToken`. */
            field?: string;
            idempotencyKey?: string;
            identifier?: string;
            /**
             * Format: int64
             * @description With `quota_exceeded`.
             */
            limit?: number;
            outcome?: components["schemas"]["Outcome"];
            /** Format: uuid */
            promiseId?: string;
            /** @description With `quota_exceeded`, the limit's name. */
            quota?: string;
            resolved?: boolean;
            state?: components["schemas"]["State"];
            status: number;
            title: string;
            /**
             * Format: uri
             * @description Leads to the code's row in the reference.
             */
            type: string;
        };
        Promise: {
            comment?: string;
            /** @description In the answer to a create, false if the promise existed. */
            created?: boolean;
            /** Format: date-time */
            createdAt: string;
            /** Format: int32 */
            createdBySequence: number;
            /** @description One for each target, in the order of `notify`, without `promiseId`. In the answers of get and wait. */
            deliveries?: components["schemas"]["Delivery"][];
            /** Format: date-time */
            erasedAt?: string;
            /** @description Of a rejection. */
            error?: string;
            idempotencyKey?: string;
            /** @description In the answer to a create, the form that works in every path and batch. */
            identifier?: string;
            metadata?: {
                [key: string]: unknown;
            };
            name: string;
            onTimeout?: components["schemas"]["StoredOnTimeout"];
            /** Format: uuid */
            promiseId: string;
            /** @description Of a cancellation. */
            reason?: string;
            /** @description A URL that rejects the promise. It is a secret. */
            rejectUrl?: string;
            /** @description A URL that resolves the promise. It is a secret. */
            resolveUrl?: string;
            /** Format: date-time */
            resolvedAt?: string;
            /** Format: int32 */
            resolvedBySequence?: number;
            settledBy?: components["schemas"]["SettledBy"];
            state: components["schemas"]["State"];
            /** Format: date-time */
            timeoutAt?: string;
            /** @description In the answer to a create with `tokens`. */
            token?: string;
            value?: components["schemas"]["Value"];
            /**
             * Format: byte
             * @description A value from before this service that is not JSON.
             */
            valueBase64?: string;
            /** Format: uuid */
            workflowExecutionId: string;
            /** @description The text from which the workflow execution's UUID was made. */
            workflowId?: string;
        };
        /** @description The promise's state, and the effect of this call. */
        PromiseSettlement: {
            /**
             * @deprecated
             * @description Whether the promise had been settled before. See `outcome`.
             */
            alreadyResolved: boolean;
            /** @enum {string} */
            outcome: "settled" | "duplicate" | "conflict" | "timed_out" | "cancelled";
            /** Format: uuid */
            promiseId: string;
            /**
             * @deprecated
             * @description Whether this call settled the promise, also by a rejection. See `outcome`.
             */
            resolved: boolean;
            state: components["schemas"]["State"];
        };
        SettledBy: {
            /** @description The API key's id, the token's id, or the source's name. */
            id?: string;
            /** @enum {string} */
            kind: "key" | "token" | "direct" | "deadline" | "webhook";
        };
        /** @enum {string} */
        State: "pending" | "resolved" | "rejected" | "cancelled" | "timed_out";
        /** @description The outcome at the deadline. It has one of the three. */
        StoredOnTimeout: {
            reject?: string;
            resolve?: components["schemas"]["Value"];
            /**
             * Format: byte
             * @description A value from before this service that is not JSON.
             */
            resolveBase64?: string;
        };
        Target: {
            stepFunctions: {
                destination?: components["schemas"]["DestinationName"];
                taskToken: string;
            };
        } | {
            durableExecution: {
                callbackId: string;
                destination?: components["schemas"]["DestinationName"];
            };
        } | {
            destination: components["schemas"]["DestinationName"];
        };
        Tokens: {
            /**
             * @description `raw`: a callback's whole body is the value or the error. Default: `json`.
             * @enum {string}
             */
            body?: "json" | "raw";
            ttlSeconds: number;
            verbs: ("resolve" | "reject")[];
        };
        /** @description Any JSON value, also null. It is kept byte for byte. */
        Value: unknown;
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
