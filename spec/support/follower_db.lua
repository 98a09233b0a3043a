--- What specs of FollowerDb share: batches of a log, a table that takes them, and what stands in it.

local Batch = require "tidemark.batch"
local luassert = require "luassert"
local query = require "spec.support.query"

local support = {}

support.LOG = 0xfffffff0 -- any 32 bits but 0

--- The records `first`..`last` of a shard, each the text "shard/seqno".
---@param first integer
---@param last integer
---@param fields? table epoch (default 1), prev_epoch (default: the epoch, 0 before record 1), shard (default 0), log_id, records
function support.batch(first, last, fields)
  local batch = { shard = 0, first_seqno = first, epoch = 1, log_id = support.LOG, records = {} }
  for name, value in pairs(fields or {}) do
    batch[name] = value
  end
  batch.prev_epoch = batch.prev_epoch or (first == 1 and 0 or batch.epoch)
  for i = 1, last - first + 1 do -- not over the seqnos: Lua 5.3 would count on beyond the last integer
    batch.records[i] = batch.records[i] or ("%d/%d"):format(batch.shard, first + i - 1)
  end
  return Batch.encode(batch)
end

--- The table in which `insert` notes what took effect. It takes anything twice, so that nothing but FollowerDb keeps that away.
function support.create_table(db)
  assert(db:exec "CREATE TABLE effect (shard, seqno, record)")
end

--- An fn for apply: notes the record, which names its shard.
function support.insert(db, record, seqno)
  assert(db:exec("INSERT INTO effect VALUES (?, ?, ?)", math.tointeger(record:match "^%d+"), seqno, record))
end

--- The seqnos of a shard that took effect, in the order in which they did, such as "1 2 3".
function support.effects(db, shard)
  return table.concat(query.column(db, "SELECT seqno FROM effect WHERE shard = ? ORDER BY rowid", shard or 0), " ")
end

--- The shard's row, such as "3 1": applied, epoch; nil where there is none.
function support.row(db, shard)
  return (query.first(db, "SELECT applied || ' ' || epoch FROM tidemark_progress WHERE shard = ?", shard or 0))
end

--- What stands in the database and in its state must be these effects, this row and its mark.
function support.stands(db, effects, row, shard)
  local mark = db:state():applied_seqno(shard or 0)
  local expected = { effects, row or "none", row and math.tointeger(row:match "^%d+") or 0 }
  luassert.same(expected, { support.effects(db, shard), support.row(db, shard) or "none", mark })
end

--- The batch must be refused with that code: the message, without the shard and the file in front of it.
function support.refused(db, path, code, batch, fn)
  local result, message, got = db:apply(batch, fn)
  luassert.same({ code, nil }, { got, result })
  local front = ("shard %d: %s: "):format(batch.shard, path)
  luassert.equal(front, message:sub(1, #front))
  return message:sub(#front + 1)
end

return support
