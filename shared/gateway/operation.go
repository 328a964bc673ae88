package gateway

import (
	"github.com/flovyn/promises/shared/promise"
)

// CreatePromise creates a promise: 201, or 200 with "created": false.
var CreatePromise = Operation{
	name: "create-promise",
	body: []string{
		"workflowExecutionId", "workflowId", "name", "idempotencyKey", "idempotencyKeyTtlSeconds", "timeoutMs", "timeoutAt", "onTimeout",
		"metadata", "tokens", "notify",
	},
	needs: promise.Need{Scope: promise.ScopeCreate}, do: create,
}

// GetPromise reads a promise.
var GetPromise = Operation{
	name: "get-promise", checkIdentifier: anyIdentifier, needs: promise.Need{Scope: promise.ScopeRead}, do: get,
	redirects: map[string]string{
		"waitSeconds": "get-promise does not wait. Send waitSeconds to GET /promises/{identifier}/wait, or invoke wait-promise.",
	},
}

// WaitPromise reads a promise as soon as it is settled, or when the time is up.
var WaitPromise = Operation{
	name: "wait-promise", parameters: []string{"waitSeconds"}, checkIdentifier: anyIdentifier, ownTime: true,
	needs: promise.Need{Scope: promise.ScopeRead}, do: waitPromise,
}

// ListPromises lists a tenant's promises, newest first.
var ListPromises = Operation{
	name: "list-promises",
	parameters: []string{
		"workflowExecutionId", "workflowId", "name", "state", "timeoutBefore", "limit", "cursor",
	},
	needs: promise.Need{Scope: promise.ScopeRead}, do: listPromises,
}

// ListDeliveries lists a tenant's deliveries, newest first.
var ListDeliveries = Operation{
	name: "list-deliveries", parameters: []string{"promiseId", "destination", "state", "limit", "cursor"},
	needs: promise.Need{Scope: promise.ScopeRead}, do: listDeliveries,
}

// RetryDeliveries makes one delivery due again, or dead deliveries of a destination:
// 202, because they are sent later.
var RetryDeliveries = Operation{
	name: "retry-deliveries", body: []string{"destination", "state"}, bodyOptional: true, ofDelivery: true,
	needs: promise.Need{Scope: promise.ScopeDeliver}, do: retryDeliveries,
}

// ListReceipts lists the receipts of a tenant's webhooks, newest first.
var ListReceipts = Operation{
	name: "list-receipts", parameters: []string{"source", "outcome", "key", "promiseId", "from", "before", "limit", "cursor"},
	needs: promise.Need{Scope: promise.ScopeRead}, do: listReceipts,
}

// ListEvents reads a workflow execution's log.
var ListEvents = Operation{
	name: "list-events", parameters: []string{"after", "limit"}, ofWorkflow: true,
	needs: promise.Need{Scope: promise.ScopeRead}, do: listEvents,
	redirects: map[string]string{
		"waitSeconds": "list-events does not wait. Send waitSeconds to GET /workflows/{workflowExecutionId}/events/wait, or invoke wait-events.",
	},
}

// WaitEvents reads a workflow execution's log as soon as it has an event after the
// given number, or when the time is up.
var WaitEvents = Operation{
	name: "wait-events", parameters: []string{"after", "limit", "waitSeconds"}, ofWorkflow: true, ownTime: true,
	needs: promise.Need{Scope: promise.ScopeRead}, do: waitEvents,
}

// Resolve resolves a promise by id or by key, as ResolveByID and ResolveByKey do.
// One route serves both, because API Gateway cannot route on a prefix within a path
// segment.
var Resolve = Operation{
	name: "resolve", body: resolveFields, parameters: settleParameters, checkIdentifier: anyIdentifier, needs: toResolve, do: resolve,
}

// ResolveByID resolves a promise by its id, and refuses keys.
var ResolveByID = Operation{
	name: "resolve-by-id", directOnly: true, body: []string{"value", "comment"}, parameters: settleParameters, needs: toResolve, do: resolve,
	checkIdentifier: func(i promise.Identifier) error {
		if _, ok := i.ID(); !ok {
			return promise.Fail(promise.CodeInvalidIdentifier, "resolve-by-id takes an id, not a key. Send promiseId, or invoke resolve-by-key.")
		}
		return nil
	},
}

// ResolveByKey resolves a promise by its idempotency key, and refuses ids.
var ResolveByKey = Operation{
	name: "resolve-by-key", directOnly: true, body: resolveFields, parameters: settleParameters, needs: toResolve, do: resolve,
	checkIdentifier: func(i promise.Identifier) error {
		if _, ok := i.IdempotencyKey(); !ok {
			return promise.Fail(promise.CodeInvalidIdentifier, "resolve-by-key takes a key, not an id. Send key, or invoke resolve-by-id.")
		}
		return nil
	},
}

// Reject rejects a promise by either identifier.
var Reject = Operation{
	name: "reject", body: []string{"error", "comment", "holdSeconds"}, parameters: settleParameters,
	checkIdentifier: anyIdentifier, needs: promise.Need{Scope: promise.ScopeSettle, Verb: promise.VerbReject}, do: reject,
}

// CancelPromise cancels a promise, for the workflow that owns it.
var CancelPromise = Operation{
	name: "cancel-promise", body: []string{"reason", "comment"}, bodyOptional: true, parameters: settleParameters,
	checkIdentifier: anyIdentifier, needs: promise.Need{Scope: promise.ScopeCreate}, do: cancel,
}

// BatchResolve resolves and rejects many promises, each independently of the others.
var BatchResolve = Operation{
	name: "batch-resolve", body: []string{"items"}, needs: promise.Need{Scope: promise.ScopeSettle}, do: batchResolve,
}

// ExtendPromise moves a pending promise's deadline.
var ExtendPromise = Operation{
	name: "extend-promise", body: []string{"timeoutMs", "timeoutAt"}, checkIdentifier: anyIdentifier,
	needs: promise.Need{Scope: promise.ScopeCreate}, do: extend,
}

// RevokeTokens revokes all tokens that were issued for a promise so far. A later
// create with tokens makes valid ones.
var RevokeTokens = Operation{
	name: "revoke-tokens", body: []string{}, bodyOptional: true, checkIdentifier: anyIdentifier, needs: promise.Need{Scope: promise.ScopeCreate}, do: revokeTokens,
}

// DeletePromise erases the contents of a settled promise. Its name, key, state,
// times, sequence numbers and settledBy stay.
var DeletePromise = Operation{
	name: "delete-promise", checkIdentifier: anyIdentifier, needs: promise.Need{Scope: promise.ScopeManage}, do: deletePromise,
}

// ReceiveWebhook settles promises by the requests of outside systems as they are. Its
// route has no authorizer, so it verifies the request itself, by the source that the URL
// names. It has no direct form.
var ReceiveWebhook = Operation{name: "receive-webhook", webhook: true, do: receiveWebhook}

// ManageIntegrations manages a tenant's destinations and sources. A route or an action
// picks one of its operations.
var ManageIntegrations = Operation{name: "manage-integrations", members: []Operation{
	{
		name: "list-destinations", route: "GET /api/tenants/{slug}/destinations", parameters: []string{"limit", "cursor"},
		needs: toManage, do: listDestinations,
	},
	{name: "get-destination", route: "GET /api/tenants/{slug}/destinations/{name}", checkName: promise.CheckDestinationName, needs: toManage, do: getDestination},
	{
		name: "put-destination", route: "PUT /api/tenants/{slug}/destinations/{name}", checkName: promise.CheckDestinationName, body: []string{"kind", "url", "enabled"},
		needs: toManage, do: putDestination,
	},
	{name: "delete-destination", route: "DELETE /api/tenants/{slug}/destinations/{name}", checkName: promise.CheckDestinationName, needs: toManage, do: deleteDestination},
	{
		name: "rotate-secret", route: "POST /api/tenants/{slug}/destinations/{name}/rotate-secret", checkName: promise.CheckDestinationName,
		body: []string{"overlapSeconds", "replaceVersion"}, bodyOptional: true, needs: toManage, do: rotateSecret,
	},
	{
		name: "test-destination", route: "POST /api/tenants/{slug}/destinations/{name}/test", checkName: promise.CheckDestinationName, body: []string{}, bodyOptional: true,
		needs: toManage, ownTime: true, do: testDestination,
	},
	{
		name: "set-default-destination", route: "PUT /api/tenants/{slug}/default-destination", body: []string{"destination"},
		needs: toManage, do: setDefaultDestination,
	},
	{
		name: "list-sources", route: "GET /api/tenants/{slug}/sources", parameters: []string{"limit", "cursor"},
		needs: toManage, do: listSources,
	},
	{name: "get-source", route: "GET /api/tenants/{slug}/sources/{name}", checkName: promise.CheckSourceName, needs: toManage, do: getSource},
	{
		name: "put-source", route: "PUT /api/tenants/{slug}/sources/{name}", checkName: promise.CheckSourceName,
		body: append([]string{"secret", "enabled"}, definitionFields...), needs: toManage, do: putSource,
	},
	{name: "delete-source", route: "DELETE /api/tenants/{slug}/sources/{name}", checkName: promise.CheckSourceName, needs: toManage, do: deleteSource},
	{
		name: "rotate-source-secret", route: "POST /api/tenants/{slug}/sources/{name}/rotate-secret", checkName: promise.CheckSourceName,
		body: []string{"secret", "overlapSeconds", "replaceVersion"}, bodyOptional: true, needs: toManage, do: rotateSourceSecret,
	},
	{
		name: "test-source", route: "POST /api/tenants/{slug}/sources/{name}/test", checkName: promise.CheckSourceName,
		body: []string{"headers", "query", "body", "bodyBase64", "definition"}, needs: toManage, do: testSource,
	},
	{
		name: "replay-receipt", route: "POST /api/tenants/{slug}/receipts/{receiptId}/replay", ofReceipt: true,
		body: []string{}, bodyOptional: true, needs: toManage, do: replayReceipt,
	},
}}

var (
	toManage         = promise.Need{Scope: promise.ScopeManage}
	toResolve        = promise.Need{Scope: promise.ScopeSettle, Verb: promise.VerbResolve}
	resolveFields    = []string{"value", "comment", "holdSeconds"}
	settleParameters = []string{"strict"}
)

func anyIdentifier(promise.Identifier) error { return nil }
