--- tidemark inspect: what a state file holds, whatever state it is in.

local ReplicationState = require "tidemark.replication_state"
local terminal = require "tidemark.cli.terminal"

local function slot_row(info, number)
  local slot = info[number]
  local verdict = "not valid: " .. tostring(slot.why)
  if slot.valid then
    verdict = number == info.checkpoint and "valid, the last checkpoint" or "valid"
  end
  return {
    ("%d"):format(number),
    slot.generation > 0 and terminal.thousands(slot.generation) or "-",
    slot.valid and terminal.thousands(slot.shards) or "-",
    verdict,
  }
end

local function live_line(info)
  if not info.live then
    return "live file: does not count: " .. info.live_why
  end
  return ("live file: its marks count; generation %s saved, %s being saved or last tried%s"):format(
    terminal.thousands(info.saved_generation), terminal.thousands(info.saving_generation),
    info.poisoned and "; poisoned: a sync has failed, end all who have it open and look at the disk" or "")
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
---@return string? code
return function(options)
  local info, message, code = ReplicationState.inspect(options.file)
  if not info then
    return 1, message, code
  end
  local rows = { { "slot", "generation", "shards", "" }, slot_row(info, 0), slot_row(info, 1) }
  local _, unwritten = terminal.write(
    ("%s: state file %s\n%s\n%s\n"):format(options.file, info.id, terminal.table(rows), live_line(info)))
  if unwritten then
    return 1, unwritten
  elseif not info.checkpoint then
    return 1, options.file .. ": no slot is valid", "CORRUPT"
  end
  return 0
end
