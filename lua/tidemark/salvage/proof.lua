--- Which records of another log are proved to be those that the damaged log had, shard by shard. That the damaged log knows the epoch of a
--- record proves nothing: it may have lost the record, and a later writer may have written another one with the same seqno.
---
--- An epoch belongs to one writer, from one opening of the log to the next, and a writer gives each seqno once. So log matching holds: two
--- logs that have the same epoch at one seqno have the same records up to that one.

local proof = {}

---@class tidemark.SalvageFact `epoch` is that of the records first..last
---@field first integer
---@field last integer
---@field epoch integer

---@class tidemark.SalvageOther another log, as far as one shard goes
---@field directory string
---@field runs tidemark.SalvageRun[]
---@field head integer its own head; math.maxinteger where it has no heads that can be read
---@field proved integer the last record that is proved to be in the damaged log's history, or to have been in it
---@field limit integer the last record that may be taken: proved, and not above its head

-- What the whole batches of a shard, and the whole headers of its damaged ones, say about the epochs of records.
local function facts_of(entry)
  local facts = {}
  local function add(first, last, epoch)
    if first > 0 then
      facts[#facts + 1] = { first = first, last = last, epoch = epoch }
    end
  end
  for _, run in ipairs(entry.runs) do
    add(run.first - 1, run.first - 1, run.prev_epoch)
    add(run.first, run.last, run.epoch)
  end
  for _, damage in ipairs(entry.damage) do
    local header = damage.header
    if header then
      add(header.first_seqno - 1, header.first_seqno - 1, header.prev_epoch)
      add(header.first_seqno, header.last_seqno, header.epoch)
    end
  end
  return facts
end

-- Adds the facts about records up to `limit`: {[epoch] = the last record that is known to be of it}.
local function learn(known, facts, limit)
  for _, fact in ipairs(facts) do
    if fact.first <= limit then
      known[fact.epoch] = math.max(known[fact.epoch] or 0, math.min(fact.last, limit))
    end
  end
end

-- The last record that is in both histories, by log matching. A record of the last epoch that was begun in the damaged log was never
-- replaced.
local function matched(facts, known, last_epoch)
  local last = 0
  for _, fact in ipairs(facts) do
    local shared = fact.epoch == last_epoch and fact.last or math.min(fact.last, known[fact.epoch] or 0)
    if shared >= fact.first then
      last = math.max(last, shared)
    end
  end
  return last
end

--- The other logs that have this shard, with what is proved of each. What is proved of one may prove more of another.
---@param target tidemark.SalvageSurvey of the damaged log
---@param shard integer
---@param surveys tidemark.SalvageSurvey[] of the other logs, in the order in which they are used
---@return tidemark.SalvageOther[]
function proof.others(target, shard, surveys)
  local others, facts, known = {}, {}, {}
  local last_epoch = target.last_opening
  learn(known, facts_of(target.shards[shard]), math.maxinteger)
  for _, survey in ipairs(surveys) do
    local entry = survey.shards[shard]
    if entry then
      -- after the same last opening neither log has a history that the other one has left
      local is_same_opening = last_epoch and survey.last_opening == last_epoch
      others[#others + 1] = {
        directory = survey.directory, runs = entry.runs, head = survey.marks and (entry.head or 0) or math.maxinteger,
        proved = is_same_opening and math.maxinteger or 0,
      }
      facts[#others] = facts_of(entry)
    end
  end
  local changed = true
  while changed do
    changed = false
    for position, other in ipairs(others) do
      local proved = math.max(other.proved, matched(facts[position], known, last_epoch))
      changed = changed or not other.limit or proved > other.proved
      other.proved, other.limit = proved, math.min(proved, other.head)
      learn(known, facts[position], other.limit)
    end
  end
  return others
end

--- Says which records of another log in [first, last] are not taken, and why.
---@param other tidemark.SalvageOther
---@param target tidemark.SalvageSurvey
---@param shard integer
---@param first integer
---@param last integer
---@param notes string[] gets a sentence for each range
function proof.explain(other, target, shard, first, last, notes)
  local ranges = {}
  local function add(from, to, why)
    local before = ranges[#ranges]
    if from > to then
      return
    elseif before and before.last + 1 == from and before.why == why then
      before.last = to
    else
      ranges[#ranges + 1] = { first = from, last = to, why = why }
    end
  end
  local high = ("above its own head, %d, so nobody knows whether they were durable"):format(other.head)
  local unproved = ("nothing in %s proves that these were its records"):format(target.directory)
  for _, run in ipairs(other.runs) do
    local from, to = math.max(run.first, first, other.limit + 1), math.min(run.last, last)
    local middle = math.min(to, other.proved)
    add(from, middle, high)
    add(math.max(from, middle + 1), to, unproved)
  end
  for _, range in ipairs(ranges) do
    notes[#notes + 1] = ("%s: shard %d: %d..%d not taken: %s"):format(other.directory, shard, range.first, range.last, range.why)
  end
end

return proof
