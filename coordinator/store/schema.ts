/** The tables, as the steps that lead to them: `user_version` counts the steps a database has taken. Steps are only ever added. */

/** "chor": so that no other program's file is taken for ours. */
export const APPLICATION_ID = 0x63686f72

/** A row's id is its batch's number and its index in one integer, so that neither needs an index of its own. */
export const ROWS_PER_BATCH = 2 ** 28

export const STEPS: readonly string[] = [
  `
  CREATE TABLE files(
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, purpose TEXT NOT NULL,
    digest TEXT NOT NULL, expires INTEGER, json TEXT NOT NULL) STRICT;
  CREATE INDEX files_of ON files(tenant);

  CREATE TABLE batches(
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, input TEXT NOT NULL,
    status TEXT NOT NULL, is_open INTEGER NOT NULL, ended INTEGER, json TEXT NOT NULL,
    accepted INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    done_bytes INTEGER NOT NULL DEFAULT 0, failed_bytes INTEGER NOT NULL DEFAULT 0) STRICT;
  CREATE INDEX batches_of ON batches(tenant);
  CREATE INDEX batches_open ON batches(seq) WHERE is_open = 1;

  -- What was accepted, never changed; and what became of it, written once. A row without an outcome is open.
  CREATE TABLE rows(
    id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, custom_id TEXT NOT NULL,
    offset INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
  CREATE UNIQUE INDEX rows_named ON rows(batch, custom_id);
  CREATE TABLE outcomes(
    id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, state INTEGER NOT NULL, start INTEGER NOT NULL,
    receipt TEXT, line TEXT, blob TEXT, CHECK ((line IS NULL) <> (blob IS NULL))) STRICT;
  CREATE INDEX outcomes_in_order ON outcomes(batch, state, start);

  CREATE TABLE ledger(seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, json TEXT NOT NULL) STRICT;

  CREATE TABLE documents(
    kind TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, json TEXT, blob TEXT,
    PRIMARY KEY(kind, id), CHECK ((json IS NULL) <> (blob IS NULL))) STRICT;

  CREATE TABLE keys(
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, hash TEXT NOT NULL UNIQUE, json TEXT NOT NULL) STRICT;
  CREATE TABLE claims(
    tenant TEXT NOT NULL, key TEXT NOT NULL, at INTEGER NOT NULL, request TEXT NOT NULL,
    status INTEGER, headers TEXT, body TEXT, blob TEXT, PRIMARY KEY(tenant, key)) STRICT;
  `,
  // Which rows an answer that proves wrong later was given to.
  `CREATE INDEX outcomes_of_receipt ON outcomes(receipt) WHERE receipt IS NOT NULL;`,
]
