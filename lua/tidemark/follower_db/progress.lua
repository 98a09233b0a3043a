--- The tables of a FollowerDb: how far each shard is, and its history (docs/formats.md). Each function runs its statements on the database
--- as it is, inside a transaction or not.

local VERSION = "2" -- is in the tables' own text, which SQLite keeps
local MOST = 10000 -- epochs kept of a shard

local TABLES = {
  {
    name = "tidemark_progress",
    sql = [[
CREATE TABLE IF NOT EXISTS tidemark_progress ( -- version 2
  shard INTEGER PRIMARY KEY CHECK (shard BETWEEN 0 AND 65535),
  applied INTEGER NOT NULL CHECK (applied > 0),
  epoch INTEGER NOT NULL CHECK (epoch > 0),
  log_id INTEGER NOT NULL CHECK (log_id BETWEEN 1 AND 4294967295)
) STRICT]],
  },
  {
    name = "tidemark_epochs",
    sql = [[
CREATE TABLE IF NOT EXISTS tidemark_epochs ( -- version 2
  shard INTEGER NOT NULL, first_seqno INTEGER NOT NULL CHECK (first_seqno > 0), epoch INTEGER NOT NULL CHECK (epoch > 0),
  PRIMARY KEY (shard, first_seqno)
) STRICT, WITHOUT ROWID]],
  },
}
local FIND_TABLE = "SELECT sql FROM main.sqlite_schema WHERE name = ? COLLATE NOCASE"

local ALL_ROWS = "SELECT shard, applied FROM main.tidemark_progress"
local ONE_ROW = "SELECT applied, epoch, log_id FROM main.tidemark_progress WHERE shard = ?"
local ANY_LOG = "SELECT log_id FROM main.tidemark_progress LIMIT 1"
local MOVE_ROW = "REPLACE INTO main.tidemark_progress (shard, applied, epoch, log_id) VALUES (?, ?, ?, ?)"
local LOWER_ROW = "UPDATE main.tidemark_progress SET applied = ?2, epoch = ?3 WHERE shard = ?1"
local DROP_ROW = "DELETE FROM main.tidemark_progress WHERE shard = ?"

local EPOCH_AT = "SELECT epoch, first_seqno FROM main.tidemark_epochs WHERE shard = ? AND first_seqno <= ? "
  .. "ORDER BY first_seqno DESC LIMIT 1"
local LOWEST = "SELECT first_seqno FROM main.tidemark_epochs WHERE shard = ? ORDER BY first_seqno LIMIT 1"
local ADD_EPOCH = "REPLACE INTO main.tidemark_epochs (shard, first_seqno, epoch) VALUES (?, ?, ?)"
local KEEP_LAST = "DELETE FROM main.tidemark_epochs WHERE shard = ?1 AND first_seqno <= (SELECT first_seqno FROM main.tidemark_epochs "
  .. "WHERE shard = ?1 ORDER BY first_seqno DESC LIMIT 1 OFFSET ?2)"
local DATA_VERSION = "PRAGMA main.data_version"
local CUT_EPOCHS = "DELETE FROM main.tidemark_epochs WHERE shard = ? AND first_seqno > ?"

local progress = {}

-- The first row of a query, an array, empty where there is none; or nil, message, code.
local function first_row(database, sql, ...)
  local next_row, message, code, rows = database:rows(sql, ...)
  if not next_row then
    return nil, message, code
  end
  local row = table.pack(next_row())
  rows:close()
  return row
end

-- Whether a table is there and is of this version; or nil, message, code.
local function find(database, path, name)
  local row, message, code = first_row(database, FIND_TABLE, name)
  if not row then
    return nil, message, code
  elseif not row[1] then
    return false
  end
  local version = row[1]:match "%-%- version (%d+)\n"
  if version == VERSION then
    return true
  elseif version then
    message = ("%s: %s has version %s, this program reads version %s"):format(path, name, version, VERSION)
  else
    message = ("%s: its table %s is not tidemark's"):format(path, name)
  end
  return nil, message, "UNSUPPORTED"
end

--- Makes the tables where there are none: true where they are there and of this version, false where a database that may only be read has
--- none; or nil, message, code. Nothing is made where one of them is of another version.
function progress.prepare(database, path, readonly)
  local missing = {}
  for _, one in ipairs(TABLES) do
    local found, message, code = find(database, path, one.name)
    if found == nil then
      return nil, message, code
    elseif not found then
      missing[#missing + 1] = one
    end
  end
  if readonly then
    return #missing == 0
  end
  for _, one in ipairs(missing) do
    local made, message, code = database:exec(one.sql)
    if made then
      made, message, code = find(database, path, one.name) -- another program may have made it meanwhile
    end
    if not made then
      return nil, message, code
    end
  end
  return true
end

-- The first column of the first row, false where that is NULL or there is no row; or nil, message, code.
local function first_value(database, sql, ...)
  local row, message, code = first_row(database, sql, ...)
  if not row then
    return nil, message, code
  end
  return row[1] or false
end

--- A number that changes when another connection commits, and only then; or nil, message, code.
function progress.version(database)
  return first_value(database, DATA_VERSION)
end

--- {[shard] = applied}, or nil, message, code.
function progress.marks(database)
  local next_row, message, code = database:rows(ALL_ROWS)
  if not next_row then
    return nil, message, code
  end
  local marks = {}
  for shard, applied in next_row do
    marks[shard] = applied
  end
  return marks
end

--- What the shard's row says: {applied =, epoch =, log_id =}, applied 0 and no more where there is no row; or nil, message, code.
function progress.row(database, shard)
  local row, message, code = first_row(database, ONE_ROW, shard)
  if not row then
    return nil, message, code
  end
  return { applied = row[1] or 0, epoch = row[2], log_id = row[3] }
end

--- The log id of any row: false where there is none; or nil, message, code.
function progress.any_log_id(database)
  return first_value(database, ANY_LOG)
end

--- The epoch of a record up to the one that the row names, and the first seqno of the epoch if the table of epochs has it: 0 for seqno 0,
--- false where it is not known; or nil, message, code.
function progress.epoch(database, shard, row, seqno)
  if seqno == 0 then
    return 0
  elseif seqno > row.applied then
    return false
  end
  local found, message, code = first_row(database, EPOCH_AT, shard, seqno)
  if not found then
    return nil, message, code
  elseif seqno == row.applied then
    return row.epoch, found[1] == row.epoch and found[2] or seqno
  end
  return found[1] or false, found[2]
end

--- Moves the shard's row to the end of a batch, and notes the batch's epoch if it is not that of the row: true, or nil, message, code.
function progress.move(database, row, batch)
  local shard = batch.shard
  local ok, message, code = database:exec(MOVE_ROW, shard, batch.last_seqno, batch.epoch, batch.log_id)
  if ok and row.epoch ~= batch.epoch then
    ok, message, code = database:exec(ADD_EPOCH, shard, row.applied + 1, batch.epoch)
    if ok then
      ok, message, code = database:exec(KEEP_LAST, shard, MOST)
    end
  end
  if not ok then
    return nil, message, code
  end
  return true
end

--- The lowest seqno above 0 whose epoch is known: false where there is none; or nil, message, code.
function progress.lowest(database, shard)
  return first_value(database, LOWEST, shard)
end

--- Lowers the shard's row to `seqno`, of that epoch, and forgets the epochs that begin after it; 0 removes the row. True, or nil, message,
--- code.
function progress.lower(database, shard, seqno, epoch)
  local ok, message, code
  if seqno == 0 then
    ok, message, code = database:exec(DROP_ROW, shard)
  else
    ok, message, code = database:exec(LOWER_ROW, shard, seqno, epoch)
  end
  if ok then
    ok, message, code = database:exec(CUT_EPOCHS, shard, seqno)
  end
  if not ok then
    return nil, message, code
  end
  return true
end

return progress
