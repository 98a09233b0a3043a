--- Lines of files or of standard input, read so that signals and the time are seen while it waits for more.

local uv = require "luv"
local signals = require "tidemark.cli.signals"

local CHUNK = 65536 -- bytes
local TICK = 50 -- milliseconds between two calls of `on_tick` while there is no input

local lines = {}

--- Opens a file for `each`; nil is standard input. What waits for input is opened so that opening it does not wait, too.
---@param name string?
---@return integer? fd
---@return string? message
function lines.open(name)
  if name then
    return uv.fs_open(name, uv.constants.O_RDONLY | uv.constants.O_NONBLOCK, 0)
  elseif uv.guess_handle(0) ~= "tty" then
    return 0
  end
  -- Polling makes it non-blocking for everybody who has it, such as the shell: so a terminal gets a descriptor of its own.
  return uv.fs_open("/proc/self/fd/0", "r", 0) or 0
end

---@param fd integer of `open`
function lines.close(fd)
  if fd ~= 0 then
    uv.fs_close(fd)
  end
end

-- Waits until there is something to read, or `on_tick` gives a message, which is returned. A read that blocks could not be given up.
local function wait_readable(poll, on_tick)
  local timer, readable, message = uv.new_timer(), false, nil
  poll:start("r", function()
    readable = true
  end)
  timer:start(TICK, TICK, function()
    message = on_tick()
  end)
  while not readable and not message and not signals.stopped do
    uv.run "once"
  end
  poll:stop()
  timer:close()
  uv.run "nowait" -- closes it
  return message
end

-- Calls `take(chunk)` with bytes of `fd` until a signal, a message of it or the end: whether it was the end, and the message. What
-- cannot be polled is a file, which never waits, or cannot be read either.
local function each_chunk(fd, take, handlers)
  local poll = uv.guess_handle(fd) ~= "file" and uv.new_poll(fd) or nil
  local ended, message = false, nil
  while not ended and not message and not signals.poll() do
    message = poll and wait_readable(poll, handlers.on_tick)
    if not message and not signals.stopped then
      local chunk, failure, name = uv.fs_read(fd, CHUNK, -1)
      if chunk then
        ended = chunk == ""
        message = take(chunk) or poll and handlers.on_tick()
      elseif name ~= "EAGAIN" then -- somebody else has read it
        message = handlers.cannot_read(failure)
      end
    end
  end
  if poll then
    poll:close()
    uv.run "nowait"
  end
  return ended, message
end

---@class tidemark.LinesHandlers
---@field each fun(line: string, number: integer): string? gets every line without its line end
---@field too_long fun(number: integer): string told of a line longer than `longest`, which ends it
---@field longest integer bytes
---@field cannot_read fun(reason: string): string told of a read that fails, which ends it
---@field on_tick fun(): string? called every now and then where input may be slow to come

--- Reads the lines of the open file `fd`. Ends early when a signal asks for it or a handler returns a message.
---@param fd integer
---@param handlers tidemark.LinesHandlers
---@return string? message what a handler returned
function lines.each(fd, handlers)
  local number, rest, rest_size = 1, {}, 0
  local function finish_line(part)
    rest[#rest + 1] = part
    local line = table.concat(rest)
    number, rest, rest_size = number + 1, {}, 0
    return handlers.each(line, number - 1)
  end

  local function take(chunk)
    local start = 1
    while true do
      local stop = chunk:find("\n", start, true)
      local part = chunk:sub(start, (stop or 0) - 1)
      if rest_size + #part > handlers.longest then
        return handlers.too_long(number)
      elseif not stop then
        if part ~= "" then
          rest[#rest + 1], rest_size = part, rest_size + #part
        end
        return
      end
      local message = finish_line(part)
      if message then
        return message
      end
      start = stop + 1
    end
  end

  local ended, message = each_chunk(fd, take, handlers)
  if ended and not message and rest_size > 0 then -- a last line without line end
    message = finish_line ""
  end
  return message
end

return lines
