--- Lines of files or of standard input, read in the event loop, so that signals are seen while it waits for more.

local uv = require "luv"
local signals = require "tidemark.cli.signals"

local CHUNK = 65536 -- bytes
local IDLE = 100 -- milliseconds without input after which `on_idle` is called

local lines = {}

-- Waits until there is something to read: false when an end was asked for. A read that would block could not be given up.
local function wait_readable(fd, on_idle)
  local poll, timer, readable, is_idle = uv.new_poll(fd), uv.new_timer(), false, false
  poll:start("r", function()
    readable = true
  end)
  timer:start(IDLE, 0, function()
    is_idle = true
  end)
  while not readable and not signals.stopped do
    uv.run "once"
    if is_idle then
      is_idle = false
      on_idle()
    end
  end
  poll:close()
  timer:close()
  uv.run "nowait" -- closes them
  return readable
end

-- The next bytes of `fd`, "" at its end; nil when an end was asked for; nil and a message when it cannot be read.
local function read_chunk(fd, on_idle)
  if uv.guess_handle(fd) == "file" then
    if signals.poll() then
      return nil
    end
  elseif not wait_readable(fd, on_idle) then
    return nil
  end
  return uv.fs_read(fd, CHUNK, -1)
end

--- Calls `each(line, number)` for every line, without its line end, of the open file `fd`. `on_idle` is called when input has not come for
--- a moment. Ends early when a signal asks for it or when `each` returns a message.
---@param fd integer
---@param each fun(line: string, number: integer): string?
---@param on_idle fun()
---@return boolean ended whether the end was reached
---@return string? message what `each` returned, or why it cannot be read
function lines.each(fd, each, on_idle)
  local number, rest = 0, {}
  while not signals.stopped do
    local chunk, failure = read_chunk(fd, on_idle)
    if failure then
      return false, failure
    elseif not chunk then
      break
    end
    local start = 1
    while chunk ~= "" do
      local stop = chunk:find("\n", start, true)
      if not stop then
        break
      end
      rest[#rest + 1] = chunk:sub(start, stop - 1)
      number, start = number + 1, stop + 1
      local message = each(table.concat(rest), number)
      rest = {}
      if message then
        return false, message
      end
    end
    if chunk == "" then
      if #rest > 0 then
        return true, each(table.concat(rest), number + 1)
      end
      return true
    end
    if start <= #chunk then
      rest[#rest + 1] = chunk:sub(start)
    end
  end
  return false
end

return lines
