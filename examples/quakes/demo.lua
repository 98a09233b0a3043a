--- demo.lua [INPUT KEY]: appends JSON lines to a log, follows it with two followers that are killed ten times each, and compares.
--- See README.md. Run by `make demo`.

local uv = require "luv"
local sqlite = require "tidemark.sqlite"
local FollowerDb = require "tidemark.follower_db"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"

local HERE = arg[0]:match "^(.*)/[^/]*$" or "."
local LUA = arg[-1]
local INPUT = arg[1] or HERE .. "/../data/earthquakes.jsonl"
local KEY = not arg[1] and "net" or arg[2]
local SHARDS, BATCH, KILLS = 4, 10, 10
local PLOT_WIDTH, PLOT_HEIGHT = 72, 8

local function fail(message, ...)
  io.stderr:write("demo: ", message:format(...), "\n")
  os.exit(1)
end

local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

local function read_lines(path)
  local lines = {}
  for line in io.lines(path) do
    lines[#lines + 1] = line
  end
  return lines
end

-- ---- following, with kills ----

-- Counts in ascending order, all different, strictly inside 1..total.
local function random_counts(total)
  local taken, counts = {}, {}
  while #counts < math.min(KILLS, total - 2) do
    local count = math.random(2, total - 1)
    if not taken[count] then
      taken[count], counts[#counts + 1] = true, count
    end
  end
  table.sort(counts)
  return counts
end

-- Runs a follower once. With `kill_at` it is killed when it has reached that count; otherwise it must come to its end.
local function run_once(follower, kill_at, samples)
  local words = { LUA, HERE .. "/" .. follower.script, table.unpack(follower.arguments) }
  words[#words + 1] = kill_at and tostring(kill_at)
  for i, word in ipairs(words) do
    words[i] = quote(word)
  end
  local pipe = io.popen("exec " .. table.concat(words, " "))
  local pid, last, killed, applied, skipped
  for line in pipe:lines() do
    local word, first, second = line:match "^(%a+)\t(%d+)\t?(%d*)$"
    if word == "pid" then
      pid = tonumber(first)
    elseif word == "applied" then
      last = tonumber(first)
      samples[#samples + 1] = { time = uv.hrtime(), applied = last }
    elseif word == "reached" then
      assert(uv.kill(pid, "sigkill"))
      killed = true
      samples[#samples + 1] = { time = uv.hrtime(), applied = last or 0, kill = true }
    elseif word == "done" then
      applied, skipped = tonumber(first), tonumber(second)
    end
  end
  local _, how, code = pipe:close()
  if kill_at and not (killed and how == "signal" and code == 9) then
    fail("%s: was to be killed at record %d but had nothing left to do (%s %d)", follower.name, kill_at, how, code)
  elseif not kill_at and not applied then
    fail("%s: ended with %s %d", follower.name, how, code)
  end
  return applied, skipped
end

local function follow(follower, total)
  print(("\n%s: killed with SIGKILL in the middle of a batch, at these counts of applied records:"):format(follower.name))
  local samples, counts = {}, random_counts(total)
  io.write("  ")
  for _, count in ipairs(counts) do
    run_once(follower, count, samples)
    io.write(count, " ")
    io.flush()
  end
  local applied, skipped = run_once(follower, nil, samples)
  print(("\n  then left alone: %d batches applied in the last run, %d skipped"):format(applied, skipped))
  return samples
end

-- ---- showing ----

-- Lag over time; a kill stands as x below.
local function plot(samples, total)
  local first, last = samples[1].time, samples[#samples].time
  local lag, kills = {}, {}
  for _, sample in ipairs(samples) do
    local column = math.floor((sample.time - first) / math.max(last - first, 1) * (PLOT_WIDTH - 1)) + 1
    lag[column] = total - sample.applied
    kills[column] = kills[column] or sample.kill
  end
  print(("  lag over %.1f s (x: killed)"):format((last - first) / 1e9))
  for row = PLOT_HEIGHT, 1, -1 do
    local cells, current = {}, total
    for column = 1, PLOT_WIDTH do
      current = lag[column] or current
      cells[column] = current > (row - 1) * total / PLOT_HEIGHT and "#" or " "
    end
    print(("  %6s |%s"):format(row == PLOT_HEIGHT and tostring(total) or row == 1 and "0" or "", table.concat(cells)))
  end
  local axis = {}
  for column = 1, PLOT_WIDTH do
    axis[column] = kills[column] and "x" or "-"
  end
  print("         +" .. table.concat(axis))
end

local function show_marks(name, state)
  local cells = {}
  for shard, mark in pairs(state) do
    cells[#cells + 1] = ("%d:%d"):format(shard, mark)
  end
  print(("  marks of %s: %s"):format(name, table.concat(cells, "  ")))
end

local function show_largest(database)
  local sql = [[SELECT json_extract(record, '$.mag') AS mag, json_extract(record, '$.place') FROM records
                WHERE json_type(record, '$.mag') IN ('real', 'integer') ORDER BY mag DESC LIMIT 5]]
  print "\nThe largest quakes, from the database:"
  for mag, place in assert(database:rows(sql)) do
    print(("  %.1f  %s"):format(mag, place))
  end
end

-- ---- comparing ----

-- What the log was given, per shard in order. The log itself is the witness of which shard a line went to; that each line of the input
-- is in it exactly once is checked here.
local function read_log(log, lines)
  local wanted, shards = {}, {}
  for _, line in ipairs(lines) do
    wanted[line] = (wanted[line] or 0) + 1
  end
  for _, shard in ipairs(assert(Wal.source(log)):shards()) do
    local reader, records = assert(Wal.reader(log, shard, 0)), {}
    for batch in function() return (reader:next(0)) end do
      for seqno, record in batch:records() do
        records[seqno] = record
        wanted[record] = (wanted[record] or 0) - 1
      end
    end
    shards[shard] = records
  end
  for line, count in pairs(wanted) do
    if count ~= 0 then
      fail("the log has %d too %s of: %s", math.abs(count), count > 0 and "few" or "many", line)
    end
  end
  return shards
end

-- Compares record for record; `found` is {[shard] = {[seqno] = record}} and `rows` how many there are.
local function compare(name, shards, found, rows, total)
  for shard, records in pairs(shards) do
    for seqno, record in ipairs(records) do
      if found[shard][seqno] ~= record then
        fail("%s: shard %d, record %d is %s, not %s", name, shard, seqno, tostring(found[shard][seqno]), record)
      end
    end
  end
  if rows ~= total then
    fail("%s: %d rows, but the source has %d", name, rows, total)
  end
  print(("  %s: %d of %d records, each once and as it was"):format(name, rows, total))
end

local function read_database(database, shards)
  local found, rows = {}, 0
  for shard in pairs(shards) do
    found[shard] = {}
  end
  for shard, seqno, record in assert(database:rows "SELECT shard, seqno, record FROM records") do
    found[shard][seqno] = record
    rows = rows + 1
  end
  return found, rows
end

local function read_files(directory, shards)
  local found, rows = {}, 0
  for shard in pairs(shards) do
    found[shard] = read_lines(("%s/%d.jsonl"):format(directory, shard))
    rows = rows + #found[shard]
  end
  return found, rows
end

-- ---- the demo ----

if not KEY or KEY == "" then
  fail("KEY=field is missing: the field of your records by which they are spread over the shards")
elseif not uv.fs_stat(INPUT) then
  fail("%s: no such file", INPUT)
end
local lines = read_lines(INPUT)
if #lines < 3 then
  fail("%s: has %d lines; at least 3 are needed, so that there is something to kill in", INPUT, #lines)
end
math.randomseed(os.time() + uv.os_getpid())
local directory = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/tidemark-demo-XXXXXX"))
local log, db_path, state_path, files = directory .. "/log", directory .. "/records.db", directory .. "/state", directory .. "/files"
assert(uv.fs_mkdir(files, 448)) -- 0700

print(("%d records of %s, into a log of %d shards, keyed by '%s'"):format(#lines, INPUT, SHARDS, KEY))
local append = { LUA, HERE .. "/../../bin/tidemark", "append", log, INPUT, "--key", KEY }
for option, value in pairs { shards = SHARDS, batch = BATCH } do
  append[#append + 1] = ("--%s=%d"):format(option, value)
end
for i, word in ipairs(append) do
  append[i] = quote(word)
end
if not os.execute(table.concat(append, " ")) then
  os.exit(1)
end

local followers = {
  { name = "the database follower", script = "db_follower.lua", arguments = { log, db_path } },
  { name = "the file follower", script = "file_follower.lua", arguments = { log, state_path, files } },
}
for _, follower in ipairs(followers) do
  plot(follow(follower, #lines), #lines)
end

local shards = read_log(log, lines)
local database = assert(sqlite.open(db_path, { readonly = true }))
print "\nCompared with the source:"
local found, rows = read_database(database, shards)
compare("the database", shards, found, rows, #lines)
found, rows = read_files(files, shards)
compare("the files", shards, found, rows, #lines)

print "\nHow far each has come:"
show_marks("the log's heads", assert(Wal.heads(log)))
local db = assert(FollowerDb.open(db_path, assert(Wal.source(log)):shards()))
show_marks("the database", db:state())
db:close()
show_marks("the state file", assert(ReplicationState.open(state_path, nil, { readonly = true })))
if not arg[1] then
  show_largest(database)
end
database:close()
os.execute("rm -rf " .. quote(directory))
print "\nNothing is missing and nothing is double."
