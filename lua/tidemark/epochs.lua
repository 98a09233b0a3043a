--- What a follower knows of one shard's log: its id and its last epochs, with the seqno at which each begins. From that follow the tests
--- that a batch must pass, and the note that brings the knowledge over a restart (docs/formats.md has its bytes).
---
--- The functions take the follower's record of the shard and use of it `id`, `position` (the last record applied), `log_id` (nil if not
--- known) and `epochs` (ascending; the newest may begin at position + 1, empty if not known).

local MAGIC, VERSION = "TMEP", 1
local HEADER, ENTRY = "<c4BBi8", "<I4i8"
local MOST = 9 -- epochs in a note; it then has 122 bytes, 128 fit

local epochs = {}

---@class tidemark.Epoch
---@field epoch integer
---@field first_seqno integer of its first record in the shard

-- ---- what a batch must be ----

local function newest_epoch(shard)
  local newest = shard.epochs[#shard.epochs]
  return newest and newest.epoch
end

-- The epoch of the record at the position: 0 before record 1, nil if it is not known.
local function epoch_of_position(shard)
  if shard.position == 0 then
    return 0
  end
  for i = #shard.epochs, 1, -1 do
    if shard.epochs[i].first_seqno <= shard.position then
      return shard.epochs[i].epoch
    end
  end
end

-- The epoch of the record at the position as the leader's log has it, told by a batch that continues or overlaps it.
local function claimed_epoch(shard, batch)
  return batch.first_seqno == shard.position + 1 and batch.prev_epoch or batch.epoch
end

--- "record 5", "records 5..7"
---@param first integer
---@param last integer
---@return string
function epochs.name_records(first, last)
  return first == last and ("record %d"):format(first) or ("records %d..%d"):format(first, last)
end

--- The tests of a batch, in their order. That it is whole and sound in itself its source has seen to.
---@param shard tidemark.FollowerShard
---@param batch tidemark.Batch
---@return "apply"|"skip"|nil verdict
---@return string? message
---@return tidemark.ErrorCode? code "FOREIGN", "DIVERGED", "FENCED", "GAP"
function epochs.check(shard, batch)
  local first, last, epoch = batch.first_seqno, batch.last_seqno, batch.epoch
  local position, newest = shard.position, newest_epoch(shard)
  local sent = epochs.name_records(first, last)
  if batch.shard ~= shard.id then
    return nil, ("%s of shard %d came"):format(sent, batch.shard), "FOREIGN"
  end
  if shard.log_id and batch.log_id ~= shard.log_id then
    return nil, ("%s of log %016x came, this shard follows log %016x"):format(sent, batch.log_id, shard.log_id), "FOREIGN"
  end
  if last <= position then
    if newest and epoch > newest then
      local message = "%s came under epoch %d, but were applied under epoch %d or before: the leader has written them anew"
      return nil, message:format(sent, epoch, newest), "DIVERGED"
    end
    return "skip"
  end
  if newest and epoch < newest then
    return nil, ("%s came under epoch %d, but epoch %d has begun: an old leader is writing"):format(sent, epoch, newest), "FENCED"
  end
  if first > position + 1 then
    local missing = epochs.name_records(position + 1, first - 1)
    local are = first - 1 == position + 1 and "is" or "are"
    return nil, ("%s %s missing: record %d is the last one applied, %s came"):format(missing, are, position, sent), "GAP"
  end
  local applied_under, claimed = epoch_of_position(shard), claimed_epoch(shard, batch)
  if applied_under and applied_under ~= claimed then
    local message = "record %d was applied under epoch %d, the leader's is of epoch %d: this follower has records that the leader lacks"
    return nil, message:format(position, applied_under, claimed), "DIVERGED"
  end
  return "apply"
end

-- ---- a new epoch ----

--- Whether a batch that passed the tests is the first one of its epoch.
---@param shard tidemark.FollowerShard
---@param batch tidemark.Batch
---@return boolean
function epochs.is_new(shard, batch)
  return batch.epoch ~= newest_epoch(shard)
end

--- The shard's epochs from that batch on. One that was noted but never applied (a crash came between) gives way. Where the epoch of the
--- position is not known it is taken from the batch.
---@param shard tidemark.FollowerShard
---@param batch tidemark.Batch
---@return tidemark.Epoch[] list at most as many as fit into a note
function epochs.entered(shard, batch)
  local list = {}
  for _, entry in ipairs(shard.epochs) do
    if entry.first_seqno <= shard.position then
      list[#list + 1] = entry
    end
  end
  if #list == 0 and shard.position > 0 then
    list[1] = { epoch = claimed_epoch(shard, batch), first_seqno = shard.position }
  end
  if #list == 0 or list[#list].epoch ~= batch.epoch then
    list[#list + 1] = { epoch = batch.epoch, first_seqno = shard.position + 1 }
  end
  if #list > MOST then
    table.remove(list, 1)
  end
  return list
end

-- ---- the note ----

---@param log_id integer
---@param list tidemark.Epoch[] at least one, ascending, at most as many as `entered` gives
---@return string note
function epochs.encode(log_id, list)
  local parts = { HEADER:pack(MAGIC, VERSION, #list, log_id) }
  for i, entry in ipairs(list) do
    parts[i + 1] = ENTRY:pack(entry.epoch, entry.first_seqno)
  end
  return table.concat(parts)
end

---@param note string
---@return integer? log_id
---@return tidemark.Epoch[]|string list or what is wrong with the note
---@return tidemark.ErrorCode? code "CORRUPT" or "UNSUPPORTED"
function epochs.decode(note)
  if #note < HEADER:packsize() or note:sub(1, #MAGIC) ~= MAGIC then
    return nil, "its note is not a follower's", "CORRUPT"
  end
  local _, version, count, log_id, at = HEADER:unpack(note)
  if version ~= VERSION then
    return nil, ("its note has version %d, this program reads %d"):format(version, VERSION), "UNSUPPORTED"
  end
  if count == 0 or #note ~= HEADER:packsize() + count * ENTRY:packsize() then
    return nil, "its note has a wrong length", "CORRUPT"
  end
  local list = {}
  for i = 1, count do
    local epoch, first_seqno
    epoch, first_seqno, at = ENTRY:unpack(note, at)
    local before = list[i - 1] or { epoch = 0, first_seqno = 0 }
    if epoch <= before.epoch or first_seqno <= before.first_seqno then
      return nil, "its note has epochs that do not ascend", "CORRUPT"
    end
    list[i] = { epoch = epoch, first_seqno = first_seqno }
  end
  return log_id, list
end

return epochs
