--- What a user can do about an error, by its code (docs/reference.md has the list).

local ADVICE = {
  BUSY = "end the processes that have it open, then try again",
  CORRUPT = "nothing was changed. If it is the right file, restore a copy of it",
  DIVERGED = "take a new copy of the leader's data and begin anew from it",
  FOREIGN = "this follower goes with another log, or a file of another log lies here",
  GAP = "look why the records in between are missing",
  LOCKED = "end the other one first",
  POISONED = "end all who have it open, look at the disk, then start again",
  PRUNED = "begin anew from a newer copy of the data",
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

--- The message with its code and what to do.
---@param message string
---@param code string?
---@return string
return function(message, code)
  if code then
    message = ("%s (%s)"):format(message, code)
  end
  local todo = code == "LOST" and advice_on_loss(message) or ADVICE[code]
  return todo and ("%s: %s"):format(message, todo) or message
end
