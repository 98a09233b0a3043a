--- SIGINT and SIGTERM for commands: they ask for an end, and the command ends when it has finished what it is doing. SIGPIPE becomes a
--- failed write. The library itself handles no signal.

local uv = require "luv"

local signals = { stopped = false }

--- From here on, signals are taken. `on_stop` is called once when an end is asked for, from inside `poll` or uv.run.
---@param on_stop fun()?
function signals.take(on_stop)
  for _, name in ipairs { "sigint", "sigterm", "sigpipe" } do
    local signal = uv.new_signal()
    signal:start(name, function()
      if name ~= "sigpipe" and not signals.stopped then
        signals.stopped = true
        if on_stop then
          on_stop()
        end
      end
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
