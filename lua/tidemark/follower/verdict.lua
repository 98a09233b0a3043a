--- The verdict over a shard: does the history of the source go on where that of the target is? Each verdict is a table:
---   verdict   "ok": the same history up to the position
---             "unknown": nothing wrong was seen, nothing is proved
---             "ahead_of_source": the source ends before the position; the same history as far as both know
---             "behind_retention": the source no longer has the next record
---             "diverged": another history; `common` is the highest seqno that is proved to be common
---   message, code   why, unless it is "ok" or "unknown"
---   head      of the source, as it was compared; nil: not known
--- That the logs are the same is compared before, by their ids.

local epochs = require "tidemark.epochs"

local verdict = {}

--- The verdicts with which a shard goes on, and its lag says something.
verdict.GOES_ON = { ok = true, unknown = true }

--- What the target of a follower of one log has, and what the source is.
---@param known integer log id
---@param seen integer log id
---@return string
function verdict.describe_foreign(known, seen)
  return ("the target follows log %08x, the source is log %08x"):format(known, seen)
end

--- "...; the two histories are proved to be the same up to record 10"
---@param message string
---@param common integer
---@return string
function verdict.add_common(message, common)
  if common == 0 then
    return message .. "; no record is proved to be the same in both histories"
  end
  return ("%s; both histories are the same up to record %d"):format(message, common)
end

--- The highest seqno that is proved to be common to source and target, which differ.
---@param source tidemark.Source
---@param target tidemark.Target
---@param shard integer
---@param most integer the records after it are not common; at most the batch's last one
---@param batch tidemark.Batch? of the source: says of which epochs its records are, where the source itself does not know
---@return integer
function verdict.last_common(source, target, shard, most, batch)
  local function theirs(seqno)
    if batch and seqno >= batch.first_seqno and seqno <= batch.last_seqno then
      return batch.epoch
    elseif batch and seqno == batch.first_seqno - 1 then
      return batch.prev_epoch
    end
    return (source:epoch(shard, seqno))
  end
  return epochs.last_common(theirs, function(seqno)
    return (target:epoch(shard, seqno))
  end, most)
end

local function describe_ahead(position, head)
  local message = "record %d is the last one applied, but the log ends %s: it has lost records, or nobody has opened it for writing "
    .. "since its machine went down"
  return message:format(position, head and ("at record %d"):format(head) or "before it")
end

-- The lowest seqno above `seqno` of which the target knows the epoch, and what it then answers for that one; nothing where it knows none up
-- to the position.
local function lowest_known(target, shard, seqno, position)
  local low, high = seqno + 1, position
  if low > high or not target:epoch(shard, high) then
    return
  end
  while low < high do
    local middle = low + (high - low) // 2
    if target:epoch(shard, middle) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low, target:epoch(shard, low)
end

-- Source and target compared at `seqno`: a verdict "diverged", or true where they agree, false where it is not known; or nil, message,
-- code.
local function compare(source, target, shard, seqno, theirs, position)
  local ours, message, code = target:epoch(shard, seqno)
  if not ours and code then
    return nil, message, code
  elseif not theirs then
    return false
  elseif not ours then -- epochs ascend in a log: before a record of one epoch there is none of a later one
    local above, epoch, why, word = lowest_known(target, shard, seqno, position)
    if word then
      return nil, why, word
    elseif not epoch or theirs <= epoch then
      return false
    end
    seqno, ours = above, epoch
    message = ("record %d was applied under epoch %s, but the log has the later epoch %s before it"):format(
      seqno, epochs.text(ours), epochs.text(theirs))
  elseif ours == theirs then
    return true
  end
  local common = verdict.last_common(source, target, shard, math.max(seqno - 1, 0))
  message = verdict.add_common(message or epochs.describe_difference(seqno, ours, theirs), common)
  return { verdict = "diverged", message = message, code = "DIVERGED", common = common }
end

-- The epoch of the record at the position as the source has it, and the source's head, which is below the position if the source ends
-- before it; or the code and the message with which it answers.
local function ask(source, shard, position)
  local head = (source:head(shard))
  local epoch, message, code = source:epoch(shard, position)
  if code == "AHEAD" then
    head = (source:head(shard))
    if head and head >= position then -- it has grown meanwhile
      epoch, message, code = source:epoch(shard, position)
    end
  end
  return epoch, head, message, code
end

--- Compares the histories at the position of a follower.
---@param source tidemark.Source
---@param target tidemark.Target
---@param shard integer
---@param position integer
---@return tidemark.VerdictResult? result
---@return string? message
---@return string? code
function verdict.at(source, target, shard, position)
  local epoch, head, message, code = ask(source, shard, position)
  local seqno, ends_before = position, head ~= nil and head < position and not epoch
  if code == "UNKNOWN_SHARD" and position > 0 then -- the log lost the shard, or was restored from a copy that is older than it
    return { verdict = "ahead_of_source", message = describe_ahead(position, nil), code = "AHEAD", head = head }
  elseif ends_before and (code == "AHEAD" or not code) then
    seqno = head
    epoch, message, code = source:epoch(shard, head)
  elseif code == "PRUNED" then
    return { verdict = "behind_retention", message = message, code = code, head = head }
  elseif code == "AHEAD" and head == nil then
    ends_before, code = true, nil
  end
  if code then
    return nil, message, code
  end
  local result
  result, message, code = compare(source, target, shard, seqno, epoch, position)
  if result == nil then
    return nil, message, code
  elseif result ~= true and result ~= false then
    result.head = head
    return result
  elseif ends_before then
    return { verdict = "ahead_of_source", message = describe_ahead(position, head), code = "AHEAD", head = head }
  end
  return { verdict = result and "ok" or "unknown", head = head }
end

return verdict
