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

local function marks_of_database(path)
  local found, FollowerDb = pcall(require, "tidemark.follower_db")
  if not found then
    return nil, path .. ": is a database: install the rock tidemark-sqlite to look into it"
  end
  local db, message = FollowerDb.open(path, nil, { readonly = true })
  if not db then
    return nil, message
  end
  local marks = db:state():snapshot()
  db:close()
  return marks
end

-- {shard = seqno}, or nil and a message.
local function heads_of(directory)
  local heads, message = Wal.heads(directory)
  if not heads then
    return nil, message
  end
  local marks = heads:snapshot()
  heads:close()
  return marks
end

local function marks_of(path)
  if is_database(path) then
    return marks_of_database(path)
  end
  local state, message = ReplicationState.open(path, nil, { readonly = true })
  if not state then
    return nil, message
  end
  local marks = state:snapshot()
  state:close()
  return marks
end

-- Ascending rows {shard =, applied =, head =}; what is not known is nil.
local function read(options)
  local directory = options.log
  local marks, heads, message
  local is_log = io.open(options.target .. "/.")
  if is_log then
    is_log:close()
    if directory then
      return nil, options.target .. ": is a directory, and --log names another: give the follower's file and --log DIR"
    end
    directory = options.target
  else
    marks, message = marks_of(options.target)
    if not marks then
      return nil, message
    end
  end
  if directory then
    heads, message = heads_of(directory)
    if not heads then
      return nil, message
    end
  end
  if heads and marks and is_database(options.target) then
    for shard in pairs(heads) do
      marks[shard] = marks[shard] or 0 -- it has a row only for a shard of which it has something
    end
  end
  local seen, rows = {}, {}
  for _, set in ipairs { marks or {}, heads or {} } do
    for shard in pairs(set) do
      if not seen[shard] then
        seen[shard] = true
        rows[#rows + 1] = { shard = shard, applied = marks and marks[shard], head = heads and heads[shard] }
      end
    end
  end
  table.sort(rows, function(a, b)
    return a.shard < b.shard
  end)
  return rows
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
  local lines = { { "shard" } }
  local function add(row, ...)
    for _, text in ipairs { ... } do
      row[#row + 1] = text
    end
  end
  add(lines[1], table.unpack(has_applied and { "applied" } or {}))
  add(lines[1], table.unpack(has_head and { "head" } or {}))
  add(lines[1], table.unpack(has_applied and has_head and { "lag", "applied of head" } or {}))
  for i, row in ipairs(rows) do
    local line = { ("%d"):format(row.shard) }
    add(line, table.unpack(has_applied and { cell(row.applied) } or {}))
    add(line, table.unpack(has_head and { cell(row.head) } or {}))
    if has_applied and has_head then
      local both = row.applied and row.head
      add(line, both and cell(row.head - row.applied) or "-", both and terminal.bar(row.applied, row.head) or "")
    end
    lines[i + 1] = line
  end
  return terminal.table(lines)
end

local function show(options)
  local rows, message = read(options)
  if not rows then
    return 1, message
  end
  io.write(options.json and to_json(rows) or to_table(rows), "\n")
  if not io.stdout:flush() then
    signals.stopped = true -- nobody reads any more
  end
  return 0
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
return function(options)
  signals.take()
  local every = options.watch and (options.watch[1] or 1)
  local exit_code, message = show(options)
  while every and exit_code == 0 and not signals.poll() do
    local due = core.clock.now() + every
    while not signals.poll() and core.clock.now() < due do
      core.clock.sleep(math.min(due - core.clock.now(), 0.1))
    end
    if not signals.stopped then
      if not options.json then
        io.write "\n"
      end
      exit_code, message = show(options)
    end
  end
  return exit_code, message
end
