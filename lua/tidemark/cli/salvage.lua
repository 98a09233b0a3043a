--- tidemark salvage: a sound log from a damaged one.

local salvage = require "tidemark.salvage"
local files = require "tidemark.cli.files"
local signals = require "tidemark.cli.signals"
local terminal = require "tidemark.cli.terminal"

local MOST_LINES = 20 -- of one kind on standard error
local LOOK_EVERY = 100 -- batches between two looks at signals and the clock

-- ---- the report ----

local function warn(format, ...)
  io.stderr:write("tidemark: ", format:format(...), "\n")
end

-- One line for each of `list`, as far as there are not too many.
local function warn_each(list, describe)
  for i = 1, math.min(#list, MOST_LINES) do
    warn("%s", describe(list[i]))
  end
  if #list > MOST_LINES then
    warn("... and %s more", terminal.thousands(#list - MOST_LINES))
  end
end

local function range(entry)
  return ("shard %d: %d..%d"):format(entry.shard, entry.first, entry.last)
end

local function write_report(report, directory, newdir)
  if report.heads_why then
    warn("%s: %s, so nobody knows whether records at the end are missing, nor which shards had no records: "
      .. "give --shards N as when it was made", directory, report.heads_why)
  end
  warn_each(report.damage, function(damage)
    local what = damage.is_tail and "is not whole: left by a writer that was cut off, or damaged" or "is damaged"
    return ("%s: offset %d: what comes after seqno %d %s"):format(damage.path, damage.offset, damage.after, what)
  end)
  warn_each(report.notes, tostring)
  warn_each(report.missing, function(entry)
    return range(entry) .. " missing"
  end)
  if not report.complete then
    warn("%s is a NEW log, %08x: it has all that is whole of log %08x, renumbered, and %s/salvaged says what became of each record. "
      .. "Followers of the old log must begin again with the new one (FOREIGN)", newdir, report.log_id, report.old_log_id, newdir)
  end
end

local function summary(report, newdir)
  local amount = terminal.amount
  local lines = { ("%s in %s and %s saved to %s: %s"):format(amount(report.records, "record"), amount(report.batches, "batch", "batches"),
    amount(#report.shards, "shard"), newdir, report.complete
      and ("%s, it is still log %08x"):format(
        report.heads_why and "nothing is missing as far as the segments show" or "nothing is missing", report.log_id)
      or ("records are missing, it is the new log %08x"):format(report.log_id)) }
  for _, entry in ipairs(report.filled) do
    lines[#lines + 1] = ("%s taken from %s"):format(range(entry), entry.from)
  end
  for _, shard in ipairs(report.shards) do
    if shard.begins > 1 then
      local text = "shard %d: begins with record %d: those before were pruned, or their segments are lost"
      lines[#lines + 1] = text:format(shard.id, shard.begins)
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
return function(options)
  signals.take()
  local progress, calls = terminal.progress(), 0
  local report, message, code = salvage.run(files, options.dir, options.newdir, {
    from = options.from,
    shards = options.shards,
    progress = function(what, done, whole)
      calls = calls + 1
      if calls % LOOK_EVERY ~= 1 then
        return
      elseif signals.poll() then
        error({ message = "ended by a signal: nothing was made" }, 0)
      end
      progress:show(function()
        return ("%s %s"):format(terminal.bar(done, whole), what)
      end)
    end,
  })
  progress:clear()
  if not report then -- its messages say themselves what to do
    return 1, code and ("%s (%s)"):format(message, code) or message
  end
  write_report(report, options.dir, options.newdir)
  local _, unwritten = terminal.write(summary(report, options.newdir))
  return unwritten and 1 or report.complete and not report.heads_why and 0 or 3, unwritten
end
