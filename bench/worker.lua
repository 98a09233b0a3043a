--- A contender's process. It runs until its input ends, and for each line `case argument...` answers with one line: a number, or
--- `skip: reason`.

local worker = {}
worker.__index = worker

local function read_command(command)
  local pipe = assert(io.popen(command))
  local line = pipe:read "l"
  pipe:close()
  return line
end

-- What goes before a command to have it run on the last processor that this process may use.
local function pin()
  local processors = read_command 'taskset -cp "$$"'
  return processors and "taskset -c " .. processors:match "%d+$" or ""
end

--- Starts a command of sh.
---@param command string it gets `seconds` as one more argument: how long one measurement should take
---@param seconds number
---@param on_one boolean? true: on the same processor as all that are started so, for on a virtual machine they are not alike
---@return table worker
function worker.start(command, seconds, on_one)
  local directory = assert(read_command 'mktemp -d "${TMPDIR:-/tmp}/tidemark-bench.XXXXXX"', "mktemp made no directory")
  local answers = directory .. "/answers"
  assert(os.execute(("mkfifo '%s'"):format(answers)))
  local input = assert(io.popen(("exec %s env %s %g > '%s'"):format(
    on_one and pin() or "", command, seconds, answers), "w"))
  local output = assert(io.open(answers, "r")) -- waits until the other end is open
  os.execute(("rm -r '%s'"):format(directory))
  return setmetatable({ command = command, input = input, output = output }, worker)
end

--- Has it do one round of a case.
---@param request string
---@return number? value nil: it cannot
---@return string? reason
function worker:ask(request)
  self.input:write(request, "\n")
  self.input:flush()
  local answer = self.output:read "l" or "nothing: it has ended"
  local reason = answer:match "^skip: (.*)"
  if reason then
    return nil, reason
  end
  return tonumber(answer) or error(("%s: '%s': %s"):format(self.command, request, answer), 0)
end

--- Ends it by the end of its input, and waits for that.
function worker:stop()
  self.input:close()
  self.output:close()
end

return worker
