-- The roles of a deployment. The user who runs this may create roles: on RDS, the master user. It can be run again, and by several users at the
-- same time. No role gets a password here: on RDS they log in with IAM tokens (rds_iam), elsewhere the operator sets one.

DO $$
DECLARE
    name TEXT;
    thing RECORD;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('github.com/flovyn/promises/migrations/access', 0));

    FOREACH name IN ARRAY ARRAY['promises_owner', 'promises_app', 'promises_reader', 'promises_sweeper', 'promises_admin', 'promises_relay', 'promises_manager',
        'promises_webhook'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I', name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- another database of the cluster may create the same role: the lock is the database's alone
        END;
        IF name <> 'promises_owner' THEN
            EXECUTE format('ALTER ROLE %I LOGIN', name);
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_iam') THEN
                EXECUTE format('GRANT rds_iam TO %I', name);
            END IF;
        END IF;
    END LOOP;

    -- The user who runs this may act as the owner, who has all rights and never logs in.
    EXECUTE format('GRANT promises_owner TO %I', current_user);

    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO promises_owner', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO promises_app, promises_reader, promises_sweeper, promises_admin, promises_relay, promises_manager, promises_webhook', current_schema());
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO promises_owner', current_database());

    -- No large objects, because the grants of a table do not bound them and no statement would delete them. The functions belong to the
    -- superuser. If the user is not a superuser, such as RDS's master user, the REVOKE fails or only warns, and PUBLIC keeps them. A role that
    -- needs them is granted them by name.
    FOR thing IN
        SELECT oid::REGPROCEDURE::TEXT AS name FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::REGNAMESPACE AND proname IN (
            'lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_open', 'lo_put', 'lo_truncate', 'lo_truncate64', 'lowrite'
        ) AND has_function_privilege('public', oid, 'EXECUTE')
    LOOP
        BEGIN
            EXECUTE format('REVOKE EXECUTE ON FUNCTION pg_catalog.%s FROM PUBLIC', thing.name);
        EXCEPTION WHEN insufficient_privilege THEN NULL;
        END;
    END LOOP;

    -- Existing tables, types and functions become the owner's. So do those that a file drops, because this runs before the files. Later
    -- statements wait behind one that waits for a table's lock, so it waits a second at most.
    PERFORM set_config('lock_timeout', '1s', TRUE);
    FOR thing IN
        SELECT 'TABLE' AS kind, oid::REGCLASS::TEXT AS name FROM pg_class
        WHERE relnamespace = current_schema()::REGNAMESPACE AND relowner <> 'promises_owner'::REGROLE AND relkind IN ('r', 'v') AND relname IN (
            'tenant', 'workflow_execution', 'promise', 'idempotency_key', 'workflow_event', 'workflow_event_row', 'api_key', 'signing_key',
            'tenant_usage', 'tenant_wait', 'deleted_tenant', 'destination', 'destination_secret', 'delivery', 'delivery_lease',
            'source', 'source_secret', 'receipt', 'receipt_body',
            'promises_schema_version'
        )
        UNION ALL
        SELECT 'TYPE', oid::REGCLASS::TEXT FROM pg_class
        WHERE relnamespace = current_schema()::REGNAMESPACE AND relowner <> 'promises_owner'::REGROLE AND relkind = 'c'
          AND (relname IN ('promise_creation', 'promise_created', 'early_result', 'receipt_result') OR EXISTS (
              SELECT FROM pg_proc WHERE pronamespace = current_schema()::REGNAMESPACE AND proname = 'promise_settle' AND prorettype = reltype
          ))
        UNION ALL
        SELECT 'DOMAIN', oid::REGTYPE::TEXT FROM pg_type
        WHERE typnamespace = current_schema()::REGNAMESPACE AND typowner <> 'promises_owner'::REGROLE AND typtype = 'd'
          AND typname = 'promise_settlement' AND EXISTS (
              SELECT FROM pg_proc WHERE pronamespace = current_schema()::REGNAMESPACE AND proname = 'promise_settle' AND prorettype = typbasetype
          )
        UNION ALL
        SELECT 'FUNCTION', oid::REGPROCEDURE::TEXT FROM pg_proc
        WHERE pronamespace = current_schema()::REGNAMESPACE AND proowner <> 'promises_owner'::REGROLE
          AND proname IN ('promise_race_lost', 'workflow_event_delete', 'workflow_event_write', 'promise_settle', 'promise_create',
              'promise_settle_before', 'promise_create_before', 'promise_key_live', 'promise_key_names', 'promise_await_settlements',
              'tenant_delete', 'tenant_contents', 'promise_final', 'promise_identity', 'promise_erase',
              'promise_deadline_outcome', 'promise_by_deadline', 'promise_key_uncertain',
              'delivery_create', 'delivery_due', 'delivery_renew',
              'promise_settle_early', 'receipt_is_final', 'receipt_end', 'receipt_keep', 'receipt_settle', 'receipt_preview')
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO promises_owner', thing.kind, thing.name);
    END LOOP;
END
$$;

-- RDS Proxy does not pass on a cancel request, so a statement that its caller has given up must end by itself. Each limit is a little longer
-- than the caller waits: 4 s for a call (shared/app), 10 s for a batch of the sweep (shared/sweep). The owner has no limit.
ALTER ROLE promises_app SET statement_timeout = '5s';
ALTER ROLE promises_reader SET statement_timeout = '5s';
ALTER ROLE promises_sweeper SET statement_timeout = '12s';
ALTER ROLE promises_admin SET statement_timeout = '5s';
ALTER ROLE promises_relay SET statement_timeout = '5s';
ALTER ROLE promises_manager SET statement_timeout = '5s';
ALTER ROLE promises_webhook SET statement_timeout = '5s';
