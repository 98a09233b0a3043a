--- Saving marks from Lua: a checkpoint of a state file, and what a script does without tidemark: cjson, a new file, a rename, with
--- nothing synced. Sizes are shards; answers are microseconds per save.

local cjson = require "cjson"
local uv = require "luv"
local ReplicationState = require "tidemark.replication_state"

local DIRECTORY = assert(uv.fs_mkdtemp((os.getenv "BENCH_DIR" or "build/bench") .. "/disk.XXXXXX"))
local FIRST_SEQNO = 1 << 40

local function now()
  return uv.hrtime() / 1000
end

-- How long save() takes.
local function time(save)
  local start = now()
  save()
  return now() - start
end

local cases, state, generation, marks, round = {}, nil, 0, {}, 0

function cases.save(shards)
  if not state then
    local ids = {}
    for shard = 0, shards - 1 do
      ids[#ids + 1] = shard
    end
    state = assert(ReplicationState.open(DIRECTORY .. "/marks", ids))
  end
  local seqno = math.max(state:applied_seqno(0), FIRST_SEQNO) + 1
  for shard = 0, shards - 1 do
    state:advance(shard, seqno)
  end
  local value = time(function()
    assert(state:checkpoint())
  end)
  local info = assert(ReplicationState.inspect(DIRECTORY .. "/marks"))
  assert(info.saved_generation > generation, "nothing was saved")
  generation = info.saved_generation
  return value
end

function cases.cjson(shards)
  local path = DIRECTORY .. "/cjson"
  round = round + 1
  for shard = 0, shards - 1 do
    marks[tostring(shard)] = FIRST_SEQNO + round
  end
  local value = time(function()
    local file = assert(io.open(path .. ".new", "w"))
    assert(file:write(cjson.encode(marks)))
    assert(file:close())
    assert(os.rename(path .. ".new", path))
  end)
  local file = assert(io.open(path))
  assert(cjson.decode(file:read "a")["0"] == FIRST_SEQNO + round, "the file does not have the last marks")
  file:close()
  return value
end

io.stdout:setvbuf "line"
for line in io.lines() do
  local name, shards = line:match "^(%l+) (%d+)$"
  print(("%.17g"):format(cases[name](math.tointeger(tonumber(shards)))))
end
for _, name in ipairs { "marks", "marks.live", "cjson" } do
  os.remove(DIRECTORY .. "/" .. name)
end
assert(uv.fs_rmdir(DIRECTORY))
