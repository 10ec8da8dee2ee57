//! The operations that concern accounts, keys, sessions, documents and the servers themselves.

use super::Auth::{Open, Optional};
use super::{Auth, Body, Operation};
use crate::call::Role;

/// What most operations have in common.
pub(super) const BASE: Operation = Operation {
    servers: &[Role::Web],
    method: "post",
    path: "",
    tag: "",
    summary: "",
    auth: Auth::Required,
    query: &[],
    body: Body::Nothing,
    answers: &[],
    others: &[],
};
const ACCOUNTS: Operation = Operation { tag: "Accounts", answers: &[("application/json", "User")], ..BASE };
const KEYS: Operation = Operation { tag: "Keys", ..BASE };
const SESSIONS: Operation = Operation { tag: "Sessions", ..BASE };
const DOCUMENTS: Operation = Operation { tag: "Documents", ..BASE };
const HEALTH: Operation = Operation { tag: "Health", method: "get", servers: &Role::ALL, auth: Open, ..BASE };

const CREDENTIALS: Body = Body::Fields(&[
    "email! string",
    "password! string 8 to 1,024 characters",
    "next string A local path to go to, for a form",
]);
const SEE_OTHER: (u16, &str) = (303, "For a form: to next, or back to the form with an error");
const TOO_MANY: (u16, &str) = (429, "Too many attempts; Retry-After says when to come back");
const CROSS_SITE: (u16, &str) = (403, "Sent by another site's page, or the account is suspended");
const ID: &str = "id! string";
const SAVE: Body = Body::Json(&[
    "id string Without one, a document is made",
    "title string",
    "content string? Up to 8 MiB",
    "version integer? Save only if this is still its version",
]);

/// In the order in which the reference shows them.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        path: "/api/signup",
        summary: "Make an account, or sign in where there is one",
        auth: Open,
        body: CREDENTIALS,
        others: &[SEE_OTHER, TOO_MANY, CROSS_SITE],
        ..ACCOUNTS
    },
    Operation {
        path: "/api/login",
        summary: "Sign in",
        auth: Open,
        body: CREDENTIALS,
        others: &[SEE_OTHER, TOO_MANY, CROSS_SITE],
        ..ACCOUNTS
    },
    Operation {
        path: "/api/logout",
        summary: "End the session, on every server",
        auth: Open,
        answers: &[("application/json", "Message")],
        others: &[(303, "For a browser: to the first page"), CROSS_SITE],
        ..ACCOUNTS
    },
    Operation { servers: &Role::ALL, method: "get", path: "/api/current-user", summary: "Who calls", ..ACCOUNTS },
    Operation { path: "/api/get-user", summary: "Who calls, as the database has it now", ..ACCOUNTS },
    Operation { path: "/api/get-user/stripe-usage", summary: "The same as /api/get-user", ..ACCOUNTS },
    Operation {
        method: "get",
        path: "/api/subscription-status",
        summary: "Whether the caller has a subscription",
        auth: Optional,
        answers: &[("application/json", "Subscription")],
        ..ACCOUNTS
    },
    Operation {
        path: "/api/change-password",
        summary: "Change the password; every other session ends",
        body: Body::Fields(&["current_password! string", "new_password! string 8 to 1,024 characters"]),
        answers: &[("application/json", "PasswordChanged")],
        others: &[(409, "It was changed meanwhile"), TOO_MANY],
        ..ACCOUNTS
    },
    Operation {
        path: "/api/delete-account",
        summary: "Delete the account with its documents, keys and sessions",
        body: Body::Fields(&["password string Needed unless the session is younger than 15 minutes"]),
        answers: &[("application/json", "Message")],
        others: &[TOO_MANY],
        ..ACCOUNTS
    },
    Operation {
        method: "get",
        path: "/api/keys",
        summary: "The keys that work, newest first",
        answers: &[("application/json", "ApiKeys")],
        ..KEYS
    },
    Operation {
        path: "/api/keys",
        summary: "Make a key",
        body: Body::Fields(&["name! string At most 100 characters", "expires time When it stops working"]),
        answers: &[("application/json", "NewApiKey")],
        others: &[(409, "The account has 100 keys already")],
        ..KEYS
    },
    Operation {
        path: "/api/keys/rename",
        summary: "Call a key something else",
        body: Body::Fields(&[ID, "name! string At most 100 characters"]),
        answers: &[("application/json", "KeyRenamed")],
        others: &[(404, "There is no such key that works")],
        ..KEYS
    },
    Operation {
        path: "/api/keys/rotate",
        summary: "Put a new key in the place of an old one",
        body: Body::Fields(&[ID, "grace_seconds integer How long the old one still works; 30 days at most"]),
        answers: &[("application/json", "NewApiKey")],
        others: &[(404, "There is no such key that works, or it was rotated already")],
        ..KEYS
    },
    Operation {
        path: "/api/keys/revoke",
        summary: "Revoke a key, on every server at once",
        body: Body::Fields(&[ID]),
        answers: &[("application/json", "KeyRevoked")],
        others: &[(404, "There is no such key that works")],
        ..KEYS
    },
    Operation {
        method: "get",
        path: "/api/sessions",
        summary: "Where one is signed in, newest first",
        answers: &[("application/json", "Sessions")],
        ..SESSIONS
    },
    Operation {
        path: "/api/sessions/revoke",
        summary: "End one session, or all others",
        body: Body::Fields(&["id string", "others boolean"]),
        answers: &[("application/json", "SessionsEnded")],
        others: &[(404, "There is no such session")],
        ..SESSIONS
    },
    Operation {
        method: "get",
        path: "/api/docs/list",
        summary: "The caller's documents, newest first",
        query: &[
            "limit integer 1 to 1000",
            "after string The next of the page before",
            "content boolean false leaves the contents out",
        ],
        answers: &[("application/json", "Documents")],
        others: &[(400, "limit or after makes no sense")],
        ..DOCUMENTS
    },
    Operation {
        method: "get",
        path: "/api/docs/get",
        summary: "A document of the caller's, or a public one",
        auth: Optional,
        query: &[ID],
        answers: &[("application/json", "Document")],
        others: &[
            (400, "There is no id"),
            (401, "The credential is not valid"),
            (404, "There is none for this caller"),
        ],
        ..DOCUMENTS
    },
    Operation {
        path: "/api/docs/save",
        summary: "Make a document or save one; what is left out stays",
        body: SAVE,
        answers: &[("application/json", "DocumentSaved")],
        others: &[(404, "There is no such document"), (409, "It was changed meanwhile: the current one is added")],
        ..DOCUMENTS
    },
    Operation {
        path: "/api/docs/autosave",
        summary: "The same as /api/docs/save",
        body: SAVE,
        answers: &[("application/json", "DocumentSaved")],
        others: &[(404, "There is no such document"), (409, "It was changed meanwhile: the current one is added")],
        ..DOCUMENTS
    },
    Operation {
        path: "/api/docs/publish",
        summary: "Let anyone who has the id read a document, or no longer",
        body: Body::Fields(&[ID, "is_public boolean"]),
        answers: &[("application/json", "DocumentPublished")],
        others: &[(404, "There is no such document")],
        ..DOCUMENTS
    },
    Operation {
        path: "/api/docs/delete",
        summary: "Delete a document",
        body: Body::Fields(&[ID]),
        answers: &[("application/json", "DocumentDone")],
        others: &[(404, "There is no such document")],
        ..DOCUMENTS
    },
    Operation {
        path: "/api/docs/restore",
        summary: "Bring back what was deleted in the last 30 days",
        body: Body::Fields(&[ID]),
        answers: &[("application/json", "DocumentDone")],
        others: &[(404, "There is no such document")],
        ..DOCUMENTS
    },
    Operation {
        path: "/liveness_check",
        summary: "The process runs",
        answers: &[("application/json", "Alive")],
        ..HEALTH
    },
    Operation {
        path: "/readyz",
        summary: "The process can do its work",
        answers: &[("application/json", "Ready")],
        others: &[(503, "It cannot, and says why")],
        ..HEALTH
    },
    Operation {
        servers: &[Role::Web],
        path: "/openapi.json",
        summary: "This description",
        answers: &[("application/json", "OpenApi")],
        ..HEALTH
    },
];
