-- Counts a test of a destination for its tenant, unless the tenant already has as many running tests as it may have. A test is a call of
-- send-deliveries, so it has a lease, and counts as one of the tenant's calls; the lease has the tenant's id in place of a destination's. A killed
-- process removes no lease, which ends by itself.
--
-- Arguments: @tenant, a slug; @id of the lease; @longest time that the test takes; @bound, the number of running tests at which none begins.
-- Returns: one row, TRUE if the test was counted. It is also FALSE if another test of the tenant begins at the same time.
-- Locks: the tenant's row FOR NO KEY UPDATE, skipping it if it is locked.
-- Indexes: tenant_slug_key, idx_delivery_lease_expires.
WITH t AS MATERIALIZED (
    SELECT id FROM tenant WHERE slug = @tenant AND suspended_at IS NULL FOR NO KEY UPDATE SKIP LOCKED
),
counted AS (
    INSERT INTO delivery_lease (id, tenant_id, destination_id, expires_at)
    SELECT @id::UUID, t.id, t.id, NOW() + @longest::INTERVAL
    FROM t
    WHERE (SELECT COUNT(*) FROM delivery_lease l WHERE l.expires_at > NOW() AND l.destination_id = t.id) < @bound::INT
    RETURNING id
)
SELECT EXISTS (SELECT FROM counted)
