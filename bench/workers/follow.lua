--- A follower from end to end. `sqlite`: a log into a table of SQLite through Follower and FollowerDb; the size is the records of a
--- batch, the answer microseconds per record. `memory`: the peak of memory of a process that follows a log from its beginning, in KiB;
--- the size is that of the log, in MiB.

local uv = require "luv"
local Wal = require "tidemark.wal"
local follow_log = require "bench.workers.follow_log"

local LUA = os.getenv "TIDEMARK_LUA" or "lua5.4"
local RECORD = ("r"):rep(128)
local TRANSACTIONS, RECORDS_ABOUT = 400, 20000 -- as in bench/peers/sqlite.c
local DIRECTORY = assert(uv.fs_mkdtemp((os.getenv "BENCH_DIR" or "build/bench") .. "/disk.XXXXXX"))
local DATABASE = DIRECTORY .. "/database"

local logs = {}

-- A log of shard 0, of that many batches of `size` records each; made once.
local function need_log(batches, size)
  local path = ("%s/%d-%d"):format(DIRECTORY, batches, size)
  if logs[path] then
    return path
  end
  logs[path] = true
  local wal = assert(Wal.open(path, { shards = { 0 }, sync = false }))
  local records = {}
  for i = 1, size do
    records[i] = RECORD
  end
  for _ = 1, batches do
    assert(wal:append(0, records))
  end
  assert(wal:close())
  return path
end

local function clean_up()
  for path in pairs(logs) do
    for name in uv.fs_scandir_next, assert(uv.fs_scandir(path)) do
      os.remove(path .. "/" .. name)
    end
    os.remove(path)
  end
  os.remove(DIRECTORY)
end

local cases = {}

-- Into a new database each time.
function cases.sqlite(size)
  local FollowerDb = require "tidemark.follower_db"
  local batches = math.min(RECORDS_ABOUT // size, TRANSACTIONS)
  local count = batches * size
  local log = need_log(batches, size)
  local db = assert(FollowerDb.open(DATABASE, { 0 }))
  assert(db:exec "CREATE TABLE records (seqno INTEGER PRIMARY KEY, bytes TEXT)")
  local function insert(_, record, seqno)
    return db:exec("INSERT INTO records VALUES (?, ?)", seqno, record)
  end
  local start = uv.hrtime()
  follow_log(log, db:target(insert), count)
  local spent = uv.hrtime() - start
  for there in db:rows "SELECT count(*) FROM records WHERE length(bytes) = 128" do
    assert(there == count, "the database does not have all records")
  end
  db:close()
  os.remove(DATABASE)
  return spent / 1000 / count
end

-- In a process of its own, for a peak does not go down again.
function cases.memory(mib)
  local batches = mib * 1048576 // (1000 * (#RECORD + 4) + 64)
  local log = need_log(batches, 1000)
  local command = "%s bench/workers/peak.lua '%s' %d %d"
  local pipe = assert(io.popen(command:format(LUA, log, batches * 1000, batches * 1000 * #RECORD)))
  local peak = pipe:read "n"
  assert(pipe:close() and peak, "the follower has failed")
  return peak
end

io.stdout:setvbuf "line"
for line in io.lines() do
  local name, size = line:match "^(%l+) (%d+)$"
  print(("%.17g"):format(cases[name](math.tointeger(tonumber(size)))))
end
clean_up()
