--- What a salvage takes from where, decided by seqnos and epochs alone: the whole batches of the damaged log, and in between those of other
--- logs that are proved to be of the same history (tidemark.salvage.proof).

local proof = require "tidemark.salvage.proof"

local plan = {}

---@class tidemark.SalvageRun whole batches of one epoch, one directly after the other in one segment
---@field path string of the segment
---@field offset integer of the first batch
---@field first integer
---@field last integer
---@field epoch integer
---@field prev_epoch integer

---@class tidemark.SalvagePiece
---@field run tidemark.SalvageRun
---@field first integer
---@field last integer
---@field from string? the directory of the other log

---@class tidemark.SalvageShard
---@field pieces tidemark.SalvagePiece[] ascending
---@field missing { [1]: integer, [2]: integer }[] ranges of seqnos, ascending
---@field begins integer the first seqno that should be there

-- The position of the first run that ends at `seqno` or above.
local function find_run(runs, seqno)
  local low, high = 1, #runs + 1
  while low < high do
    local middle = (low + high) // 2
    if runs[middle].last < seqno then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- The epoch of a record, nil where the runs do not say it.
local function epoch_at(runs, seqno)
  if seqno == 0 then
    return 0
  end
  local position = find_run(runs, seqno)
  local run, after = runs[position], runs[position]
  if run and run.first <= seqno then
    return run.epoch
  end
  return after and after.first == seqno + 1 and after.prev_epoch or nil
end

-- What the damaged log knows about the records around and in a gap: a list of {seqno, epoch}.
local function known_epochs(gap, damage)
  local known = {}
  local function add(seqno, epoch)
    if epoch and seqno > 0 then
      known[#known + 1] = { seqno = seqno, epoch = epoch }
    end
  end
  add(gap.first - 1, gap.before_epoch)
  add(gap.last, gap.after_epoch)
  for _, entry in ipairs(damage) do
    local header = entry.header
    if header and header.first_seqno >= gap.first and header.last_seqno <= gap.last then
      add(header.first_seqno - 1, header.prev_epoch)
      add(header.first_seqno, header.epoch)
      add(header.last_seqno, header.epoch)
    end
  end
  return known
end

-- Returns whether another log contradicts what is known around the gap, which adds a note, and whether it may be used all the same: where
-- what is proved of it ends before that.
local function judge(gap, other, shard, notes)
  for _, known in ipairs(gap.known) do
    local epoch = epoch_at(other.runs, known.seqno)
    if epoch and epoch ~= known.epoch then
      local is_usable = other.limit < known.seqno
      notes[#notes + 1] = ("%s: shard %d: not used for records from %d on: its record %d is of another history (DIVERGED)"):format(
        other.directory, shard, is_usable and math.max(gap.first, other.limit + 1) or gap.first, known.seqno)
      return true, is_usable
    end
  end
  return false, true
end

-- The first of the logs that has record `seqno`, its run and how far it goes; or nil and the next seqno that some log has.
local function find_source(list, seqno, most)
  local nearest
  for _, other in ipairs(list) do
    local run, limit = other.runs[find_run(other.runs, seqno)], math.min(other.limit, most)
    if run and seqno <= limit and run.first <= seqno then
      return other, run, math.min(run.last, limit)
    elseif run and run.first <= limit and run.first > seqno then
      nearest = math.min(nearest or run.first, run.first)
    end
  end
  return nil, nearest
end

-- Fills [gap.first, gap.last] from the logs of `list`, as far as it can. Up to gap.must what is not found is missing; above it the log ends
-- there. Returns the ranges that are not filled.
local function fill_from(result, gap, list)
  local at, open = gap.first, {}
  while at <= gap.last do
    local other, run, last = find_source(list, at, gap.last)
    if other then
      result.pieces[#result.pieces + 1] = { run = run, first = at, last = last, from = other.directory }
      at = last + 1
    else
      local nearest = run
      if at > gap.must then
        open[#open + 1] = { at, gap.last }
        break
      end
      local stop = nearest and math.min(nearest, gap.must + 1) or gap.must + 1
      result.missing[#result.missing + 1] = { at, stop - 1 }
      open[#open + 1] = { at, stop - 1 }
      at = stop
    end
  end
  return open
end

-- Fills a gap, and says which records of the other logs are not taken although they are in what is left of it.
local function fill(result, gap, others, target, shard, notes)
  local list, silent = {}, {}
  gap.known = known_epochs(gap, target.shards[shard].damage)
  for _, other in ipairs(others) do
    local is_usable
    silent[other], is_usable = judge(gap, other, shard, notes)
    list[#list + 1] = is_usable and other or nil
  end
  for _, range in ipairs(fill_from(result, gap, list)) do
    for _, other in ipairs(others) do
      if not silent[other] then -- otherwise there is a note already
        proof.explain(other, target, shard, range[1], range[2], notes)
      end
    end
  end
end

-- Where the shard begins: where its first segment does, for what is before was pruned. Without a segment, where another log does.
local function find_begin(entry, others)
  if entry.segments[1] then
    return entry.segments[1].first_seqno
  end
  local begins
  for _, other in ipairs(others) do
    local run = other.runs[1]
    if run and run.first <= other.limit then
      begins = math.min(begins or run.first, run.first)
    end
  end
  return ((entry.head or 0) > 0 or entry.is_guessed) and begins or 1
end

-- The last seqno that the shard must have had.
local function find_end(entry)
  local last = entry.head or 0
  for _, segment in ipairs(entry.segments) do
    last = math.max(last, segment.first_seqno - 1)
  end
  for _, damage in ipairs(entry.damage) do
    local header = damage.header
    if not entry.head and header then -- without heads nobody knows that it had not been durable
      last = math.max(last, header.last_seqno)
    end
  end
  return last
end

--- The plan for one shard.
---@param target table the survey of the damaged log
---@param shard integer
---@param surveys table[] those of the other logs
---@param notes string[] gets a sentence for each log that cannot be used, and for each range that is not taken
---@return tidemark.SalvageShard
function plan.shard(target, shard, surveys, notes)
  local entry, others = target.shards[shard], proof.others(target, shard, surveys)
  local result = { pieces = {}, missing = {}, begins = find_begin(entry, others) }
  local at, epoch = result.begins, result.begins == 1 and 0 or nil
  for _, run in ipairs(entry.runs) do
    if run.first > at then
      local gap = { first = at, last = run.first - 1, must = run.first - 1, before_epoch = epoch, after_epoch = run.prev_epoch }
      fill(result, gap, others, target, shard, notes)
    end
    result.pieces[#result.pieces + 1] = { run = run, first = run.first, last = run.last }
    at, epoch = run.last + 1, run.epoch
  end
  local gap = { first = at, last = math.maxinteger, must = find_end(entry), before_epoch = epoch }
  fill(result, gap, others, target, shard, notes)
  return result
end

return plan
