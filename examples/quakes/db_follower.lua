--- db_follower.lua LOG DATABASE [PAUSE_AT]: follows a log into the table records of an SQLite database.

local Follower = require "tidemark.follower"
local FollowerDb = require "tidemark.follower_db"
local Wal = require "tidemark.wal"
local progress = require "progress"

local log, path, pause_at = arg[1], arg[2], math.tointeger(tonumber(arg[3]))

local source = assert(Wal.source(log))
local db = assert(FollowerDb.open(path, source:shards()))
assert(db:exec "CREATE TABLE IF NOT EXISTS records (shard INTEGER, seqno INTEGER, record, PRIMARY KEY (shard, seqno))")

local state = db:state()
local progress_of = progress.new(state, pause_at)

local follower = assert(Follower.new {
  state = state,
  source = source,
  apply = function(batch)
    local number = 0
    return db:apply(batch, function(transaction, record, seqno)
      assert(transaction:exec("INSERT INTO records VALUES (?, ?, ?)", batch.shard, seqno, record))
      number = number + 1
      progress_of.applying(number)
    end)
  end,
})

progress.run(follower, progress_of)
db:close()
