--- What a user can do about an error, by its code (docs/reference.md has the list).

local ADVICE = {
  BUSY = "end the processes that have it open, then try again",
  CORRUPT = "nothing was changed. If it is the right file, restore a copy of it",
  DIVERGED = "take a new copy of the leader's data and begin anew from it",
  FOREIGN = "this follower goes with another log, or a file of another log lies here",
  GAP = "look why the records in between are missing",
  LOCKED = "end the other one first",
  LOST = "restore the missing segments",
  POISONED = "end all who have it open, look at the disk, then start again",
  PRUNED = "begin anew from a newer copy of the data",
  REPLACED = "the files were replaced while they were open: start again",
}

--- The message with its code and what to do.
---@param message string
---@param code string?
---@return string
return function(message, code)
  if code then
    message = ("%s (%s)"):format(message, code)
  end
  return ADVICE[code] and ("%s: %s"):format(message, ADVICE[code]) or message
end
