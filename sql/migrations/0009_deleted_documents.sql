-- Documents that were deleted and can still be brought back.
CREATE TABLE deleted_documents (
    id        varchar PRIMARY KEY,
    title     varchar NOT NULL,
    content   text,
    user_id   varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created   timestamptz NOT NULL,
    updated   timestamptz NOT NULL,
    is_public boolean NOT NULL,
    version   bigint NOT NULL,
    deleted   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX deleted_documents_of_user ON deleted_documents (user_id, deleted DESC, id);
CREATE INDEX deleted_documents_deleted ON deleted_documents (deleted);
