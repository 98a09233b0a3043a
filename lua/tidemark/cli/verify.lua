--- tidemark verify: reads a whole log.

local Wal = require "tidemark.wal"
local terminal = require "tidemark.cli.terminal"

---@param options table of the command line
---@return integer exit_code
---@return string? message
---@return string? code
return function(options)
  local report, message, code = Wal.verify(options.dir)
  if not report then
    return 1, message, code
  end
  local amount = terminal.amount
  local text = ("%s in %s, %s and %s: %s, all whole\n"):format(amount(report.records, "record"),
    amount(report.batches, "batch", "batches"), amount(report.segments, "segment"), amount(report.shards, "shard"),
    amount(report.bytes, "byte"))
  if report.unknown > 0 then
    text = text .. amount(report.unknown, "byte") .. " after the last whole batches: being written, or left by a writer that was cut off\n"
  end
  local heads = io.open(options.dir .. "/heads")
  if heads then
    heads:close()
  else
    text = text .. "there is no file heads, so nobody knows whether records at the end are missing\n"
  end
  local _, unwritten = terminal.write(text)
  return unwritten and 1 or 0, unwritten
end
