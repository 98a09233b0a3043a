--- tidemark inspect: what a state file holds, whatever state it is in.

local ReplicationState = require "tidemark.replication_state"
local terminal = require "tidemark.cli.terminal"

---@param options table of the command line
---@return integer exit_code
---@return string? message
return function(options)
  local info, message, code = ReplicationState.inspect(options.file)
  if not info then
    return 1, ("%s (%s)"):format(message, code)
  end
  local rows = { { "slot", "generation", "shards", "" } }
  for number = 0, 1 do
    local slot = info[number]
    local verdict = slot.valid and (number == info.checkpoint and "valid, the last checkpoint" or "valid") or "not valid: " .. slot.why
    rows[#rows + 1] = {
      ("%d"):format(number),
      slot.generation > 0 and terminal.thousands(slot.generation) or "-",
      slot.valid and terminal.thousands(slot.shards) or "-",
      verdict,
    }
  end
  print(("%s: state file %s"):format(options.file, info.id))
  print(terminal.table(rows))
  if info.live then
    print(("live file: its marks count; generation %s saved, %s being saved or last tried%s"):format(
      terminal.thousands(info.saved_generation), terminal.thousands(info.saving_generation),
      info.poisoned and "; poisoned: a sync has failed" or ""))
  else
    print("live file: does not count: " .. info.live_why)
  end
  if not info.checkpoint then
    return 1, options.file .. ": no slot is valid: restore a copy, or remove the file to begin anew"
  end
  return 0
end
