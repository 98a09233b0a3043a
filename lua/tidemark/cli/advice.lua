--- What a user can do about an error, by its code (docs/reference.md has the list).

local ADVICE = {
  AHEAD = "it goes on by itself once the log has that record again: start the log's writer, or restore a newer copy of the log",
  BUSY = "end the processes that have it open, then try again",
  CORRUPT = "nothing was changed. If it is the right file, restore a copy of it",
  DIVERGED = "find out which history is right, and begin again from a copy of that one",
  FOREIGN = "give the file that belongs to this log, or the log that belongs to the file; a new file begins with record 1",
  GAP = "look why the records in between are missing",
  LOCKED = "end the other one first",
  POISONED = "end all who have it open, look at the disk, then start again",
  PRUNED = "begin again from a newer copy of the data",
  REPLACED = "the files were replaced while they were open: start again",
}

-- For a log that ends too early: the options with which append goes on, from the list of ends in the message.
local function advice_on_loss(message)
  local options = {}
  for mark in (message:match "ends at ([%d: ]+)" or ""):gmatch "%d+:%d+" do
    options[#options + 1] = "--accept-loss " .. mark
  end
  if #options == 0 then
    return "restore the missing files"
  end
  local shards = message:find("shard ", 1, true) and "" or ", and --shards N if it had more shards"
  return ("with tidemark append add %s%s"):format(table.concat(options, " "), shards)
end

-- Words for sh that it takes as they are.
local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- For a damaged segment; its path begins the message, but for the shard.
local function advice_on_damage(message)
  local directory = message:gsub("^shard %d+: ", ""):match "^(.-)/%d%d%d%d%d%-%d+%.wal: "
  return directory and ("nothing was changed. What is whole is saved by: tidemark salvage %s NEWDIR [--from LOG], where LOG is a copy or "
    .. "replica that has the rest"):format(quote(directory))
end

-- The interpreter that runs this.
local function interpreter()
  local at = 0
  while arg and arg[at - 1] do
    at = at - 1
  end
  return at < 0 and arg[at] or "lua"
end

local RESET_STATE = 'assert(assert(require("tidemark.replication_state").open(%q, {})):reset(%d, %d))'
local RESET_DB = 'assert(assert(require("tidemark.follower_db").open(%q, {%d})):reset(%d, %d, function(db) '
  .. 'return db:exec("DELETE FROM records WHERE shard = %d AND seqno > %d") end))'

-- For a shard that holds records which the log does not have: the ways on, as they are typed.
local function advice_on_divergence(context)
  local shard, common = context.shard, context.common or 0
  local option, file, after = "--state", context.state, ("the effects of its records after %d"):format(common)
  local script = RESET_STATE:format(file, shard, common)
  local first = ("take back %s, then type: "):format(after)
  if context.db then
    option, file = "--db", context.db
    script = RESET_DB:format(file, shard, shard, common, shard, common)
    first = ("delete the records after %d, which it does not have; type: "):format(common)
  end
  return ("find out which history is right. If it is this log's, %s%s -e %s; or begin with record 1 in another file, %s FILE"):format(
    first, interpreter(), quote(script), option)
end

---What is wrong where.
---@class tidemark.AdviceContext
---@field db string? the follower's database
---@field state string? or its state file
---@field log string the directory of the log
---@field shard integer
---@field common integer? of a shard that has diverged

--- The message with its code and what to do.
---@param message string
---@param code string?
---@param context tidemark.AdviceContext? of a follower's shard
---@return string
return function(message, code, context)
  if code then
    message = ("%s (%s)"):format(message, code)
  end
  local todo = code == "LOST" and advice_on_loss(message) or code == "CORRUPT" and advice_on_damage(message) or ADVICE[code]
  if code == "DIVERGED" and context then
    todo = advice_on_divergence(context)
  end
  return todo and ("%s: %s"):format(message, todo) or message
end
