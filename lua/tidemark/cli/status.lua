--- tidemark status: how far something has come, as a table with bars or as JSON.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local core = require "tidemark.core"
local signals = require "tidemark.cli.signals"
local terminal = require "tidemark.cli.terminal"

local SQLITE_MAGIC = "SQLite format 3\0"

local function is_database(path)
  local file = io.open(path, "rb")
  local magic = file and file:read(#SQLITE_MAGIC)
  if file then
    file:close()
  end
  return magic == SQLITE_MAGIC
end

-- Marks are {shard = seqno}. Each of these gives them, or nil, message, code.

local function marks_of_database(path)
  local found, FollowerDb = pcall(require, "tidemark.follower_db")
  if not found then
    return nil, path .. ": is a database: to look into it install the rock tidemark-sqlite, or libsqlite3-dev and run make"
  end
  local db, message, code = FollowerDb.open(path, nil, { readonly = true })
  if not db then
    return nil, message, code
  end
  local marks = db:state():snapshot()
  db:close()
  return marks
end

-- The marks of an open state; it is closed.
local function take_marks(state, message, code)
  if not state then
    return nil, message, code
  end
  local marks = state:snapshot()
  state:close()
  return marks
end

local function heads_of(directory)
  local heads, message, code = Wal.heads(directory)
  return take_marks(heads, code == "NOT_FOUND" and directory .. ": there is no log" or message, code)
end

-- `heads` are those of the log, or nil.
local function marks_of(path, heads)
  if not is_database(path) then
    return take_marks(ReplicationState.open(path, nil, { readonly = true }))
  end
  local marks, message, code = marks_of_database(path)
  if not marks then
    return nil, message, code
  end
  for shard in pairs(heads or {}) do
    marks[shard] = marks[shard] or 0 -- it has a row only for a shard of which it has something
  end
  if not next(marks) then
    return nil, path .. ": no follower keeps its progress there, or it has applied nothing yet"
  end
  return marks
end

-- Ascending rows {shard =, applied =, head =}; what is not known is nil.
local function join(marks, heads)
  local seen, rows = {}, {}
  for _, set in ipairs { marks, heads } do
    for shard in pairs(set) do
      if not seen[shard] then
        seen[shard] = true
        rows[#rows + 1] = { shard = shard, applied = marks[shard], head = heads[shard] }
      end
    end
  end
  table.sort(rows, function(a, b)
    return a.shard < b.shard
  end)
  return rows
end

local function read(options)
  local marks, heads, message, code
  local target_is_log = io.open(options.target .. "/.")
  if target_is_log then
    target_is_log:close()
    if options.log then
      return nil, options.target .. ": is a directory, and --log names another: give the follower's file and --log DIR"
    end
  end
  local directory = target_is_log and options.target or options.log
  if directory then
    heads, message, code = heads_of(directory)
    if not heads then
      return nil, message, code
    end
  end
  if not target_is_log then
    marks, message, code = marks_of(options.target, heads)
    if not marks then
      return nil, message, code
    end
  end
  return join(marks or {}, heads or {})
end

local function to_json(rows)
  local entries = {}
  for i, row in ipairs(rows) do
    local fields = {}
    for _, name in ipairs { "applied", "head" } do
      if row[name] then
        fields[#fields + 1] = ('"%s":%d'):format(name, row[name])
      end
    end
    if row.applied and row.head then
      fields[#fields + 1] = ('"lag":%d'):format(row.head - row.applied)
    end
    entries[i] = ('"%d":{%s}'):format(row.shard, table.concat(fields, ","))
  end
  return "{" .. table.concat(entries, ",") .. "}"
end

local function cell(number)
  return number and terminal.thousands(number) or "-"
end

local function to_table(rows)
  local has_applied, has_head = false, false
  for _, row in ipairs(rows) do
    has_applied, has_head = has_applied or row.applied ~= nil, has_head or row.head ~= nil
  end
  local lines = {}
  local function add(shard, applied, head, lag, bar)
    local line = { shard }
    line[#line + 1] = has_applied and applied or nil
    line[#line + 1] = has_head and head or nil
    line[#line + 1] = has_applied and has_head and lag or nil
    line[#line + 1] = has_applied and has_head and bar or nil
    lines[#lines + 1] = line
  end
  add("shard", "applied", "head", "lag", "applied of head")
  for _, row in ipairs(rows) do
    local both = row.applied and row.head
    add(("%d"):format(row.shard), cell(row.applied), cell(row.head), cell(both and row.head - row.applied),
      both and terminal.bar(row.applied, row.head) or "")
  end
  return terminal.table(lines)
end

-- Shows it once: an exit code, message and code.
local function show(options)
  local rows, message, code = read(options)
  if not rows then
    return 1, message, code
  end
  local ok, unwritten = terminal.write(options.json and to_json(rows) or to_table(rows), "\n")
  signals.stopped = signals.stopped or not ok
  return unwritten and 1 or 0, unwritten
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
---@return string? code
return function(options)
  signals.take()
  local every = options.watch and (options.watch[1] or 1)
  local exit_code, message, code = show(options)
  while every and exit_code == 0 and not signals.poll() do
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
  return exit_code, message, code
end
