--- What a user can do about an error, by its code (docs/reference.md has the list). What is to be typed can be typed as it is.

local epochs = require "tidemark.epochs"
local typed = require "tidemark.cli.typed"

local SEGMENT = "%d%d%d%d%d%-%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%.wal" -- its name

---What is wrong where.
---@class tidemark.AdviceContext
---@field command string of the command line
---@field log string? the directory of the log
---@field db string? the follower's database
---@field state string? or its state file
---@field file string? or a file of which it is not known what it is
---@field shard integer?
---@field common integer? of a shard that has diverged: the last record that is proved to be common
---@field applied integer? of a shard: the last record applied
---@field head integer? of a shard: where its log ends

-- The follower's file, and the option that names it: nil where the command has none.
local function file_of(context)
  return context.db or context.state or context.file, context.db and "--db" or context.state and "--state"
end

-- "type ..., which says how to go on": opening a log for writing finds out what it lacks, and changes nothing where something is lost.
local function opening(context)
  return ("type %s append %s </dev/null, which says how to go on"):format(typed.program(), typed.quote(context.log))
end

-- Whether the message is about the log: "segment" or "heads" for a file of it.
local function part_of_log(message, context)
  if not context.log then
    return nil
  elseif message:find("/" .. SEGMENT .. ": ") then
    return "segment"
  elseif message:find "/heads: " or message:find "/heads%.live: " then
    return "heads"
  end
end

-- Where a copy takes the place of the follower's file: the old files beside it, which do not belong to the copy.
local function files_beside(context)
  local file = file_of(context)
  if context.db or context.file and typed.is_file(file .. "-wal") then
    return ("%s and %s"):format(typed.quote(file .. "-wal"), typed.quote(file .. "-shm"))
  end
  return typed.quote(file .. ".live")
end

-- "; or begin with record 1 in another file, --db FILE"
local function another_file(context)
  local _, option = file_of(context)
  return option and ("; or begin with record 1 in another file, %s FILE"):format(option) or ""
end

-- ---- by code ----

local ADVICE = {
  FENCED = "leave --epoch out",
  POISONED = "end all who have it open, look at the disk, then start again",
  REPLACED = "the files were replaced while they were open: start again",
}

function ADVICE.BUSY(_, context)
  return context.command == "reset" and "end the follower first" or "end the processes that have it open, then try again"
end

function ADVICE.LOCKED(_, context)
  return context.command == "reset" and "end the follower first" or "end the other one first"
end

function ADVICE.CORRUPT(message, context)
  local part = part_of_log(message, context)
  if part == "heads" then
    return "nothing was changed: " .. opening(context)
  elseif not part and file_of(context) then
    return ("nothing was changed. If it is the right file, end all who use it, put a copy in its place and remove %s%s"):format(
      files_beside(context), another_file(context))
  elseif context.command == "append" or context.command == "verify" then
    return ("nothing was changed. End the log's writer, then type: %s salvage %s %s (add --from COPY if a copy or a replica has the "
      .. "rest)"):format(typed.program(), typed.quote(context.log), typed.quote(context.log .. ".salvaged"))
  end
  return ("nothing was changed: type %s verify %s, which says what to do"):format(typed.program(), typed.quote(context.log))
end

ADVICE.NOTADB = ADVICE.CORRUPT

function ADVICE.UNSUPPORTED(message, context)
  if context.log and (part_of_log(message, context) or not file_of(context)) then
    return "nothing was changed. Use the version of tidemark that wrote it, or begin a new log in another directory"
  end
  return "nothing was changed. Use the version of tidemark that wrote it" .. another_file(context)
end

function ADVICE.NOT_FOUND(message, context)
  if message:find("there is no log in it yet", 1, true) then
    return ("type %s append %s </dev/null"):format(typed.program(), typed.quote(context.log))
  elseif context.command == "reset" then -- or the message says to which record it can be reset
    return not typed.is_file(context.file) and "give a state file or a database of follow --db" or nil
  elseif not context.log or typed.is_file(context.log .. "/heads") then
    return context.command == "status" and "give the directory of a log, a state file or a database of follow --db" or nil
  end
  return ("give the directory of a log, which %s append makes"):format(typed.program())
end

function ADVICE.FOREIGN(message, context)
  if part_of_log(message, context) then
    return ("move the file that is of another log out of %s (this one or, if it is heads that is wrong, heads), and restore the right "
      .. "one from a copy. Then %s"):format(typed.quote(context.log), opening(context))
  end
  local _, option = file_of(context)
  return ("give the file that belongs to this log, or the log that belongs to the file; a new file%s begins with record 1"):format(
    option and (", %s FILE,"):format(option) or "")
end

-- In append, the options with which it goes on, from the list of ends in the message.
function ADVICE.LOST(message, context)
  local options = {}
  for mark in (message:match "ends at ([%d: ]+)" or ""):gmatch "%d+:%d+" do
    options[#options + 1] = "--accept-loss " .. mark
  end
  if #options == 0 then
    return ("restore the missing files from a copy of the log. Without one, %s"):format(opening(context))
  end
  local shards = message:find("shard ", 1, true) and "" or ", and --shards N if it had more shards"
  return ("with tidemark append add %s%s"):format(table.concat(options, " "), shards)
end

function ADVICE.GAP(_, context)
  return ("type %s verify %s, which says what is wrong with the log"):format(typed.program(), typed.quote(context.log))
end

function ADVICE.PRUNED(message, context)
  local first = math.tointeger(tonumber(message:match "the log begins with (%d+)"))
  local which = first and ("that has applied record %d"):format(first - 1) or "that has applied more"
  local what = context.db and "a copy of its file" or "copies of its effects and its file"
  return ("begin again from a newer copy of the data: end this follower and another one %s, put %s in the place of these and remove %s")
    :format(which, what, files_beside(context))
end

-- "end the follower, ... type: tidemark reset FILE 0:10": the shard goes back to the record `seqno`.
local function going_back(context, seqno)
  local what = ("take back the effects of its records after %d, then type"):format(seqno)
  if context.db then
    what = ("then, to delete the records after %d, which the log does not have, type"):format(seqno)
  end
  return ("end the follower, %s: %s reset %s %d:%d"):format(
    what, typed.program(), typed.quote(file_of(context)), context.shard, seqno)
end

function ADVICE.DIVERGED(_, context)
  local _, option = file_of(context)
  return ("find out which history is right; if it is the file's, follow the log that has it. If it is this log's, %s; or begin with "
    .. "record 1 in another file, %s FILE"):format(going_back(context, context.common or 0), option)
end

-- Only a writer that finds the records again is harmless: in an older copy it makes others of their seqnos.
function ADVICE.AHEAD(_, context)
  local head, applied = context.head, context.applied
  local are_known = head ~= nil and applied ~= nil and head < applied
  local advice = ("if the log's machine just went down, start its writer, or type %s append %s </dev/null, and recovery may bring the "
    .. "records back. If the log was restored from an older copy, restore a newer one before anything is appended to it: what is written "
    .. "now takes the place of %s, and this follower diverges"):format(
      typed.program(), typed.quote(context.log), are_known and epochs.name_records(head + 1, applied) or "records that it has applied")
  if not are_known or not context.shard then
    return advice
  end
  return ("%s. If they are lost for good, %s"):format(advice, going_back(context, head))
end

--- The message with its code and what to do.
---@param message string
---@param code string?
---@param context tidemark.AdviceContext
---@return string
return function(message, code, context)
  if code then
    message = ("%s (%s)"):format(message, code)
  end
  if code and message:find("Too many open files", 1, true) then
    return message .. ": raise the limit, type: ulimit -n $(ulimit -Hn), then start again"
  end
  local todo = ADVICE[code]
  if type(todo) == "function" then
    todo = todo(message, context)
  end
  return todo and ("%s: %s"):format(message, todo) or message
end
