--- Histories: which epoch each record of a shard is of. A history is an ascending list of {epoch, first_seqno}: each epoch with the
--- seqno of its first record. Pure functions: what the parts of a history mean, the tests that a batch must pass, the note that
--- carries a history over a restart (docs/formats.md has its bytes).
---
--- An epoch is drawn once, for one leader's term. So two histories that have the same epoch at a seqno are the same up to it. An epoch
--- function gives the epoch of a seqno: 0 for seqno 0, nil where it is not known. What it does not know is below what it knows.

local core = require "tidemark.core"

local MAGIC, VERSION = "TMEP", 2
local HEADER, ENTRY = "<c4BBI2I4", "<i8i8"
local MOST = 7 -- epochs in a note, which then has 124 bytes; 128 fit

local epochs = { MOST = MOST }

---@class tidemark.Epoch
---@field epoch integer
---@field first_seqno integer of its first record in the shard

---@alias tidemark.EpochFunction fun(seqno: integer): integer?, string?, string?

-- ---- in words ----

--- An epoch as people see it: when it began, and its random part.
---@type fun(epoch: integer): string
epochs.text = core.epoch_text

--- "record 5", "records 5..7"
---@param first integer
---@param last integer
---@return string
function epochs.name_records(first, last)
  return first == last and ("record %d"):format(first) or ("records %d..%d"):format(first, last)
end

-- ---- histories ----

--- The epoch of a record.
---@param history tidemark.Epoch[]
---@param seqno integer
---@return integer? epoch 0 for seqno 0, nil where the history does not reach back so far
function epochs.at(history, seqno)
  if seqno == 0 then
    return 0
  end
  for i = #history, 1, -1 do
    if history[i].first_seqno <= seqno then
      return history[i].epoch
    end
  end
end

--- The history up to a seqno: without the epochs that begin after it.
---@param history tidemark.Epoch[]
---@param seqno integer
---@return tidemark.Epoch[]
function epochs.cut(history, seqno)
  local result = {}
  for _, entry in ipairs(history) do
    if entry.first_seqno <= seqno then
      result[#result + 1] = entry
    end
  end
  return result
end

--- The history from a batch on that begins with the record after `batch.first_seqno - 1`, the last one applied. An epoch of which nothing
--- was applied gives way. Where the epoch of the last record is not known, it is the one that the batch names.
---@param history tidemark.Epoch[]
---@param batch tidemark.Batch
---@param most integer? how many epochs to keep, the newest ones; nil: all
---@return tidemark.Epoch[]
function epochs.entered(history, batch, most)
  local position = batch.first_seqno - 1
  local result = epochs.cut(history, position)
  if #result == 0 and position > 0 then
    result[1] = { epoch = batch.prev_epoch, first_seqno = position }
  end
  if #result == 0 or result[#result].epoch ~= batch.epoch then
    result[#result + 1] = { epoch = batch.epoch, first_seqno = batch.first_seqno }
  end
  while most and #result > most do
    table.remove(result, 1)
  end
  return result
end

-- The seqno from `low` to `high` at which it holds first, given that it holds at `high` and goes on to hold once it does.
local function first_that(low, high, holds)
  while low < high do
    local middle = low + (high - low) // 2
    if holds(middle) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

--- The highest seqno, `most` at most, that is proved to be common to two histories: up to it they have the same records. 0 where nothing
--- is proved. Asks for the epochs of some 2 * log2(most) seqnos.
---@param a tidemark.EpochFunction
---@param b tidemark.EpochFunction
---@param most integer at least 0
---@return integer seqno
function epochs.last_common(a, b, most)
  local low, high, proved = 1, most, 0 -- if there is a higher common seqno than `proved`, it is in low..high
  while low <= high do
    local middle = low + (high - low) // 2
    local one, other = a(middle), b(middle)
    if one and other and one ~= other then
      high = middle - 1
    else -- it is common, or it is not known: what is known is above
      proved = one and one == other and middle or proved
      if middle == high then -- `high` may be the last integer
        break
      end
      low = middle + 1
    end
  end
  return proved
end

-- ---- what a batch must be ----

---What the tests of a batch need to know of the shard.
---@class tidemark.ShardHistory
---@field id integer
---@field position integer the last record applied
---@field log_id integer? nil: not known
---@field epoch tidemark.EpochFunction of the records up to the position

-- Compares the batch with the epochs that are known of the records that it holds and of the one before. Nothing, or the seqno at which
-- they differ, the epoch that is known and the batch's; or nil, message, code where an epoch could not be found out. An epoch has
-- consecutive records, so if the ends of a range are of one epoch, all of it is.
local function difference(shard, batch)
  local before = batch.first_seqno - 1
  local known, message, code = shard.epoch(before)
  if code then
    return nil, message, code
  elseif known and known ~= batch.prev_epoch then
    return before, known, batch.prev_epoch
  end
  local last = math.min(batch.last_seqno, shard.position)
  if batch.first_seqno > last then
    return
  end
  known, message, code = shard.epoch(last)
  if known and known ~= batch.epoch then
    return last, known, batch.epoch
  elseif not known then
    return nil, message, code
  end
  local lowest = first_that(batch.first_seqno, last, shard.epoch)
  known, message, code = shard.epoch(lowest)
  if not known then
    return nil, message, code
  elseif known ~= batch.epoch then
    return lowest, known, batch.epoch
  end
end

--- "record 5 was applied under epoch A, but in the log it is of epoch B"
---@param seqno integer
---@param known integer
---@param epoch integer
---@return string
function epochs.describe_difference(seqno, known, epoch)
  if seqno == 0 then
    return ("nothing comes before record 1, but in the log it continues epoch %s"):format(epochs.text(epoch))
  end
  return ("record %d was applied under epoch %s, but in the log it is of epoch %s"):format(seqno, epochs.text(known), epochs.text(epoch))
end

--- The tests of a batch, in their order. That it is whole and sound in itself its source has seen to. Epochs are compared for equality
--- only: which of two is higher says nothing about which history is right.
---@param shard tidemark.ShardHistory
---@param batch tidemark.Batch
---@return "apply"|"skip"|nil result
---@return string? message
---@return string? code "FOREIGN", "GAP", "DIVERGED", or the epoch function's
---@return integer? seqno of a record at which the histories differ, if they do
function epochs.check(shard, batch)
  local first, last, position = batch.first_seqno, batch.last_seqno, shard.position
  local sent = epochs.name_records(first, last)
  if batch.shard ~= shard.id then
    return nil, ("%s of shard %d came"):format(sent, batch.shard), "FOREIGN"
  end
  if shard.log_id and batch.log_id ~= shard.log_id then
    return nil, ("%s of log %08x came, this shard follows log %08x"):format(sent, batch.log_id, shard.log_id), "FOREIGN"
  end
  if first > position + 1 then
    local missing = epochs.name_records(position + 1, first - 1)
    local are = first - 1 == position + 1 and "is" or "are"
    return nil, ("%s %s missing: record %d is the last one applied, %s came"):format(missing, are, position, sent), "GAP"
  end
  local seqno, known, epoch = difference(shard, batch)
  if seqno then
    return nil, epochs.describe_difference(seqno, known, epoch), "DIVERGED", seqno
  elseif known then
    return nil, known, epoch -- a message and a code
  end
  return last <= position and "skip" or "apply"
end

-- ---- the note ----

---@param log_id integer
---@param history tidemark.Epoch[] at least one, at most MOST
---@return string note
function epochs.encode(log_id, history)
  local parts = { HEADER:pack(MAGIC, VERSION, #history, 0, log_id) }
  for i, entry in ipairs(history) do
    parts[i + 1] = ENTRY:pack(entry.epoch, entry.first_seqno)
  end
  return table.concat(parts)
end

--- Whether a note was written by a follower, of whatever version, whole or not. Any other note belongs to somebody else.
---@param note string
---@return boolean
function epochs.is_note(note)
  return note:sub(1, #MAGIC) == MAGIC
end

---@param note string
---@return integer? log_id
---@return tidemark.Epoch[]|string history or what is wrong with the note
---@return string? code "CORRUPT" or "UNSUPPORTED"
function epochs.decode(note)
  if not epochs.is_note(note) then
    return nil, "its note is not a follower's", "CORRUPT"
  end
  local version = note:byte(#MAGIC + 1)
  if version and version ~= VERSION then
    return nil, ("its note has version %d, this program reads version %d"):format(version, VERSION), "UNSUPPORTED"
  elseif #note < HEADER:packsize() then
    return nil, "its note has a wrong length", "CORRUPT"
  end
  local _, _, count, zero, log_id, at = HEADER:unpack(note)
  if count < 1 or count > MOST or #note ~= HEADER:packsize() + count * ENTRY:packsize() then
    return nil, "its note has a wrong length", "CORRUPT"
  elseif log_id == 0 or zero ~= 0 then
    return nil, "its note has a damaged header", "CORRUPT"
  end
  local history = {}
  for i = 1, count do
    local epoch, first_seqno
    epoch, first_seqno, at = ENTRY:unpack(note, at)
    local before = history[i - 1] or { epoch = 0, first_seqno = 0 }
    if epoch <= before.epoch or first_seqno <= before.first_seqno then
      return nil, "its note has epochs that do not ascend", "CORRUPT"
    end
    history[i] = { epoch = epoch, first_seqno = first_seqno }
  end
  return log_id, history
end

return epochs
