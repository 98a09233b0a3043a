--- Logs to be damaged and salvaged, for specs, and what must have come of them.

local assert = require "luassert"
local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"

local support = {}

support.SHARDS, support.EPOCHS, support.PER_EPOCH = { 0, 3 }, { 1, 2, 3 }, 8 -- records of a shard in an epoch

--- The record that every log made here has under this seqno, unless it has diverged.
function support.record(shard, seqno)
  return ("%d:%d%s"):format(shard, seqno, ("."):rep(seqno % 5))
end

--- Opens the log and appends `count` records to each shard, two in a batch.
---@param directory string
---@param epoch integer
---@param count integer
---@param options? { record?: function, segment_bytes?: integer, origin?: table }
function support.append(directory, epoch, count, options)
  options = options or {}
  local wal = assert(Wal.open(directory, {
    shards = support.SHARDS, epoch = epoch, sync = false, segment_bytes = options.segment_bytes or 190,
  }))
  assert(wal:sync())
  local make = options.record or support.record
  for _, shard in ipairs(support.SHARDS) do
    local at = wal:head(shard)
    for first = at + 1, at + count, 2 do
      local records = { make(shard, first), first < at + count and make(shard, first + 1) or nil }
      assert(wal:append(shard, records, options.origin and { origin = options.origin } or nil))
    end
  end
  assert(wal:close())
end

--- A log with EPOCHS, and so records 1..24 in each shard, two in a batch, two batches in a segment.
function support.make(directory)
  for _, epoch in ipairs(support.EPOCHS) do
    support.append(directory, epoch, support.PER_EPOCH)
  end
end

function support.copy(from, to)
  assert(os.execute(("cp -r --sparse=always '%s' '%s'"):format(from, to)))
end

-- ---- looking into a log ----

--- The batches of a log as its readers give them, by shard; from the first record that is there.
---@return table<integer, tidemark.Batch[]>
function support.batches(directory)
  local heads, result = assert(Wal.heads(directory)), {}
  for shard, head in pairs(heads:snapshot()) do
    local list, at = {}, support.begins(directory, shard) - 1
    local reader = head > 0 and assert(Wal.reader(directory, shard, at))
    while at < head do
      local batch = assert(reader:next(0))
      list[#list + 1], at = batch, batch.last_seqno
    end
    if reader then
      reader:close()
    end
    result[shard] = list
  end
  heads:close()
  return result
end

--- The first seqno of a shard's first segment, 1 where it has none.
function support.begins(directory, shard)
  local name = command_line.list(directory):match(("%%f[%%d]%05d%%-(%%d+)%%.wal"):format(shard))
  return name and math.tointeger(tonumber(name)) or 1
end

--- Every record of a log: {[shard] = {[seqno] = {record, epoch, prev_epoch of its batch, written_ms, origin of the record}}}.
function support.records(directory)
  local result = {}
  for shard, batches in pairs(support.batches(directory)) do
    result[shard] = {}
    for _, batch in ipairs(batches) do
      for seqno, record in batch:records() do
        local origin = batch.origin
        result[shard][seqno] = {
          record = record, epoch = batch.epoch, written_ms = batch.written_ms,
          prev_epoch = seqno > batch.first_seqno and batch.epoch or batch.prev_epoch,
          origin = origin and { origin.log_id, origin.epoch, origin.first_seqno + seqno - batch.first_seqno } or nil,
        }
      end
    end
  end
  return result
end

function support.log_id(directory)
  local source = assert(Wal.source(directory))
  local id = source:log_id()
  source:close()
  return id
end

--- Where the whole batches of a log's segments are: a list of {path, offset, size, first, last}.
function support.places(directory, shard)
  local list = {}
  for name in command_line.list(directory):gmatch(("%%f[%%d]%05d%%-%%d+%%.wal%%f[%%s%%z]"):format(shard)) do
    local data, offset = command_line.read(directory .. "/" .. name), 0
    while offset + 64 <= #data and data:sub(offset + 1, offset + 4) == "TMWB" do
      local count, length = ("<I4I4"):unpack(data, offset + 9)
      local first = ("<i8"):unpack(data, offset + 33)
      list[#list + 1] = {
        path = directory .. "/" .. name, offset = offset, size = 64 + length, first = first, last = first + count - 1,
      }
      offset = offset + 64 + length
    end
  end
  return list
end

--- The place of the batch that holds a record.
function support.place(directory, shard, seqno)
  for _, place in ipairs(support.places(directory, shard)) do
    if place.first <= seqno and seqno <= place.last then
      return place
    end
  end
  error(("%s: shard %d has no record %d"):format(directory, shard, seqno))
end

--- Flips one bit of the batch that holds a record.
---@param at integer offset in the batch; negative from its end
function support.flip(directory, shard, seqno, at)
  local place = support.place(directory, shard, seqno)
  local offset = place.offset + (at < 0 and place.size + at or at)
  local byte = command_line.read(place.path):byte(offset + 1)
  command_line.patch(place.path, offset, string.char(byte ~ 4))
end

--- Names, sizes and bytes of all files of a directory, heads without the zeros that they have not written.
function support.fingerprint(directory)
  local parts = {}
  for name in command_line.list(directory):gmatch "%S+" do
    local pipe = io.popen(("cksum < '%s/%s'"):format(directory, name))
    parts[#parts + 1] = name .. " " .. pipe:read "a"
    pipe:close()
  end
  return table.concat(parts)
end

-- ---- followers ----

--- Follows a log with the marks in `state_path` until there is nothing more or all shards have stopped.
---@return table<integer, table<integer, string>> applied {[shard] = {[seqno] = record}}
---@return table<integer, table> status
function support.follow(directory, state_path)
  local applied, source = {}, assert(Wal.source(directory))
  local state = assert(ReplicationState.open(state_path, support.SHARDS))
  local follower = assert(Follower.new {
    state = state, source = source, shards = support.SHARDS,
    apply = function(batch)
      applied[batch.shard] = applied[batch.shard] or {}
      for seqno, record in batch:records() do
        assert(not applied[batch.shard][seqno], "applied twice")
        applied[batch.shard][seqno] = record
      end
      return true
    end,
  })
  local idle = 0
  while idle < 3 do
    local count = follower:step(0)
    idle = count == 0 and idle + 1 or count and 0 or 3
  end
  local status = follower:status()
  follower:stop()
  follower:close()
  state:close()
  source:close()
  return applied, status
end

return support
