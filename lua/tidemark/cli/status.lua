--- tidemark status: how far something has come, as a table with bars or as JSON.

local ReplicationState = require "tidemark.replication_state"
local StateTarget = require "tidemark.state_target"
local Wal = require "tidemark.wal"
local advice = require "tidemark.cli.advice"
local core = require "tidemark.core"
local databases = require "tidemark.cli.databases"
local epochs = require "tidemark.epochs"
local signals = require "tidemark.cli.signals"
local terminal = require "tidemark.cli.terminal"
local verdict = require "tidemark.follower.verdict"

-- ---- what is compared: each function gives a handle that is to be closed, or nil, message, code ----

-- A state file as a target that applies nothing.
local function open_state(path)
  local state, message, code = ReplicationState.open(path, nil, { readonly = true })
  if not state then
    return nil, message, code
  end
  local target = StateTarget.new { state = state, apply = error }
  function target.close()
    state:close()
  end
  return target
end

-- The heads of a log as {shard = seqno}, or nil, message, code.
local function heads_of(directory)
  local heads, message, code = Wal.heads(directory)
  if code == "NOT_FOUND" then -- no log, or one that has lost its heads
    heads, message, code = Wal.source(directory)
    if heads then -- it was made at this moment
      heads:close()
      heads, message, code = Wal.heads(directory)
    end
  end
  if not heads then
    return nil, message, code
  end
  local marks = heads:snapshot()
  heads:close()
  return marks
end

-- ---- verdicts ----

-- Whether the shard's note was written by somebody who is no follower: it says nothing of logs.
local function is_strange(target, shard)
  local note = target:state():note(shard)
  return note ~= nil and not epochs.is_note(note)
end

-- What the target says its log is; a note that is not a follower's says nothing.
local function log_id_of(target, shard)
  local log_id, message, code = target:log_id(shard)
  if not log_id and code and not is_strange(target, shard) then
    return nil, message, code
  end
  return log_id
end

-- The verdict that goes for all shards if the target follows another log: nil if it does not; or nil, message, code.
local function find_foreign(source, target, marks)
  local seen = source:log_id()
  for shard in pairs(marks) do
    local known, message, code = log_id_of(target, shard)
    if code then
      return nil, message, code
    elseif known and seen and known ~= seen then
      return { verdict = "foreign", code = "FOREIGN", message = verdict.describe_foreign(known, seen) }
    end
  end
end

-- The verdict over one shard, or nil, message, code.
local function compare(source, target, shard, position)
  local subscription, message, code = source:subscribe(shard, position)
  if subscription then
    subscription:close()
  elseif code == "PRUNED" then
    return { verdict = "behind_retention", code = code, message = message }
  elseif code == "UNKNOWN_SHARD" and not (position > 0 and target:log_id(shard)) then
    return { verdict = "unknown" }
  end
  local result
  result, message, code = verdict.at(source, target, shard, position)
  if not result and is_strange(target, shard) then
    return { verdict = "unknown" }
  end
  return result, message, code
end

-- {[shard] = verdict}, or nil, message, code.
local function find_verdicts(source, target, marks)
  local foreign, message, code = find_foreign(source, target, marks)
  if code then
    return nil, message, code
  end
  local verdicts = {}
  for shard, position in pairs(marks) do
    verdicts[shard] = foreign
    if not foreign then
      verdicts[shard], message, code = compare(source, target, shard, position)
    end
    if not verdicts[shard] then
      return nil, message, code
    end
  end
  return verdicts
end

-- ---- rows ----

-- Ascending rows {shard =, applied =, head =, verdict =}; what is not known is nil.
local function join(marks, heads, verdicts)
  local seen, rows = {}, {}
  for _, set in ipairs { marks, heads } do
    for shard in pairs(set) do
      if not seen[shard] then
        seen[shard] = true
        local row = { shard = shard, applied = marks[shard], head = heads[shard], verdict = verdicts[shard] }
        local goes_on = row.verdict and verdict.GOES_ON[row.verdict.verdict]
        row.lag = goes_on and row.applied and row.head and row.head - row.applied or nil
        rows[#rows + 1] = row
      end
    end
  end
  table.sort(rows, function(a, b)
    return a.shard < b.shard
  end)
  return rows
end

-- Rows of a target, compared with a source if there is one; or nil, message, code.
local function compare_all(path, target, source)
  local marks, heads, verdicts, message, code = target:state():snapshot(), {}, {}, nil, nil
  local is_database = databases.is_one(path)
  for _, shard in ipairs(source and source:shards() or {}) do
    heads[shard] = source:head(shard)
    if is_database then
      marks[shard] = marks[shard] or 0 -- it has a row only for a shard of which it has something
    end
  end
  if not next(marks) then
    return nil, path .. ": no follower keeps its progress there, or it has applied nothing yet"
  end
  if source then
    verdicts, message, code = find_verdicts(source, target, marks)
  end
  if not verdicts then
    return nil, message, code
  end
  return join(marks, heads, verdicts)
end

local function read_target(options)
  local source, message, code
  if options.log then
    source, message, code = Wal.source(options.log)
    if not source then
      return nil, message, code
    end
  end
  local target
  target, message, code = (databases.is_one(options.target) and databases.look or open_state)(options.target)
  local rows
  if target then
    rows, message, code = compare_all(options.target, target, source)
    target:close()
  end
  if source then
    source:close()
  end
  return rows, message, code
end

local function read(options)
  local target_is_log = io.open(options.target .. "/.")
  if not target_is_log then
    return read_target(options)
  end
  target_is_log:close()
  if options.log then
    return nil, options.target .. ": is a directory, and --log names another: give the follower's file and --log DIR"
  end
  local heads, message, code = heads_of(options.target)
  if not heads then
    return nil, message, code
  end
  return join({}, heads, {})
end

-- ---- showing ----

local function to_json(rows)
  local entries = {}
  for i, row in ipairs(rows) do
    local fields = {}
    for _, name in ipairs { "applied", "head", "lag" } do
      if row[name] then
        fields[#fields + 1] = ('"%s":%d'):format(name, row[name])
      end
    end
    if row.verdict then
      fields[#fields + 1] = ('"verdict":"%s"'):format(row.verdict.verdict)
      fields[#fields + 1] = row.verdict.common and ('"common":%d'):format(row.verdict.common) or nil
    end
    entries[i] = ('"%d":{%s}'):format(row.shard, table.concat(fields, ","))
  end
  return "{" .. table.concat(entries, ",") .. "}"
end

local function cell(number)
  return number and terminal.thousands(number) or "-"
end

local function to_table(rows)
  local has = {}
  for _, row in ipairs(rows) do
    has.applied, has.head = has.applied or row.applied ~= nil, has.head or row.head ~= nil
    has.verdict = has.verdict or row.verdict ~= nil
  end
  local lines = {}
  local function add(cells)
    local line = { cells.shard }
    line[#line + 1] = has.applied and cells.applied or nil
    line[#line + 1] = has.head and cells.head or nil
    line[#line + 1] = has.verdict and cells.lag or nil
    line[#line + 1] = has.verdict and cells.verdict or nil
    line[#line + 1] = has.verdict and cells.bar or nil
    lines[#lines + 1] = line
  end
  add { shard = "shard", applied = "applied", head = "head", lag = "lag", verdict = "verdict", bar = "applied of head" }
  for _, row in ipairs(rows) do
    add {
      shard = ("%d"):format(row.shard),
      applied = cell(row.applied),
      head = cell(row.head),
      lag = cell(row.lag),
      verdict = row.verdict and row.verdict.verdict or "-",
      bar = row.lag and terminal.bar(row.applied, row.head) or "",
    }
  end
  return terminal.table(lines)
end

-- What is wrong, each with what to do: a message, or nil. Another log is the same trouble for all shards.
local function troubles(rows, options)
  local list, of = {}, databases.is_one(options.target) and "db" or "state"
  for _, row in ipairs(rows) do
    local found = row.verdict
    if found and not verdict.GOES_ON[found.verdict] then
      local context = { command = "status", log = options.log, [of] = options.target, shard = row.shard,
        common = found.common, applied = row.applied, head = found.head }
      if found.verdict == "foreign" then
        return advice(found.message:gsub("^the target", (options.target:gsub("%%", "%%%%"))), found.code, context)
      end
      list[#list + 1] = advice(("shard %d: %s: %s"):format(row.shard, found.verdict, found.message), found.code, context)
    end
  end
  return #list > 0 and table.concat(list, "\ntidemark: ") or nil
end

-- Shows it once: an exit code, message and code.
local function show(options)
  local rows, message, code = read(options)
  if not rows then
    return 1, message, code
  end
  local ok, unwritten = terminal.write(options.json and to_json(rows) or to_table(rows), "\n")
  signals.stopped = signals.stopped or not ok
  if unwritten then
    return 1, unwritten
  end
  local wrong = troubles(rows, options)
  return wrong and 3 or 0, wrong
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
---@return string? code
return function(options)
  signals.take()
  local every = options.watch and (options.watch[1] or 1)
  local exit_code, message, code = show(options)
  while every and exit_code ~= 1 and not signals.poll() do
    local due = core.clock.now() + every
    while not signals.poll() and core.clock.now() < due do
      core.clock.sleep(math.min(math.max(due - core.clock.now(), 0), 0.1))
    end
    if not signals.stopped then
      if not options.json then
        terminal.write "\n"
      end
      exit_code, message, code = show(options)
    end
  end
  if every and exit_code == 3 then -- it was shown, and a signal has ended the watching
    return 0
  end
  return exit_code, message, code
end
