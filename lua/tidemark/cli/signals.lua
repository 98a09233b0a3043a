--- SIGINT and SIGTERM for commands: they ask for an end, and the command ends when it has finished what it is doing. SIGPIPE becomes a
--- failed write. The library itself handles no signal.

local uv = require "luv"

local signals = { stopped = false }

--- From here on, signals are taken.
function signals.take()
  for _, name in ipairs { "sigint", "sigterm", "sigpipe" } do
    uv.new_signal():start(name, function()
      signals.stopped = signals.stopped or name ~= "sigpipe"
    end)
  end
end

--- Looks for signals that have come.
---@return boolean stopped whether an end was asked for
function signals.poll()
  uv.run "nowait"
  return signals.stopped
end

return signals
