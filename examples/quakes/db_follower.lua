--- db_follower.lua LOG DATABASE [PAUSE_AT]: follows a log into the table records of an SQLite database.

local Follower = require "tidemark.follower"
local FollowerDb = require "tidemark.follower_db"
local Wal = require "tidemark.wal"
local progress = require "progress"

local log, path, pause_at = arg[1], arg[2], math.tointeger(tonumber(arg[3]))

local source = assert(Wal.source(log))
local db = assert(FollowerDb.open(path, source:shards()))
assert(db:exec "CREATE TABLE IF NOT EXISTS records (shard INTEGER, seqno INTEGER, record, PRIMARY KEY (shard, seqno))")

local progress_of = progress.new(db:state(), pause_at)

local follower = assert(Follower.new {
  source = source,
  target = db:target(function(transaction, record, seqno, shard)
    assert(transaction:exec("INSERT INTO records VALUES (?, ?, ?)", shard, seqno, record))
    progress_of.applying(seqno - db:state():applied_seqno(shard)) -- the mark moves after the batch
  end),
})

progress.run(follower, progress_of)
db:close()
