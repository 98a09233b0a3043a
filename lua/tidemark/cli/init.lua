--- The command line: its commands and options. What each one does is in the module of its name.

local argparse = require "argparse"
local core = require "tidemark.core"
local advice = require "tidemark.cli.advice"

local EXIT_CODES = [[
exit codes:
   0  done, also after Ctrl-C or SIGTERM
   1  it failed; the message says why and what to do
   2  wrong usage
   3  a shard cannot continue with this log; the message says why and what to do]]

-- ---- arguments ----

local function integer(option, least, most)
  return function(text)
    local number = math.tointeger(tonumber(text))
    if not number or number < least or number > most then
      return nil, ("%s: an integer from %d to %d expected, not '%s'"):format(option, least, most, text)
    end
    return number
  end
end

-- "3:17" as {shard = 3, seqno = 17}.
local function shard_mark(option)
  return function(text)
    local shard, seqno = text:match "^(%d+):(%d+)$"
    shard, seqno = math.tointeger(tonumber(shard)), math.tointeger(tonumber(seqno))
    if not shard or not seqno or shard > 65535 then
      return nil, ("%s: SHARD:SEQNO expected, such as 0:17, not '%s'"):format(option, text)
    end
    return { shard = shard, seqno = seqno }
  end
end

local function seconds(text)
  local number = tonumber(text)
  if not number or number <= 0 then
    return nil, ("--watch: seconds above 0 expected, not '%s' (what is shown stands before --watch)"):format(text)
  end
  return number
end

local function path(text)
  if text == "" then
    return nil, "a path is empty"
  end
  return text
end

local function state_path(text)
  if text:find "%.live$" or text:find "%.new$" then
    return nil, ("'%s' cannot be a state file: names that end in .live and .new are for the files that belong to one"):format(text)
  end
  return path(text)
end

-- ---- commands ----

local function add_append(parser)
  local command = parser:command("append", "Append lines to a log, one record a line, making the log if need be.")
  command:argument("dir", "The directory of the log."):convert(path)
  command:argument("file", "Files to read. - or no file at all means standard input."):args("*"):convert(path)
  command
    :option("--shards", "How many shards a new log has (default: 1). An old log keeps its own.")
    :convert(integer("--shards", 1, 65536))
    :argname "N"
  command:option("--key", "Records are JSON objects, and those with the same value of FIELD go to the same shard. "
    .. "Without it the shard is chosen by the whole record."):argname "FIELD"
  command
    :option("--batch", "Records in a batch, at most. A batch is made durable at once. One that is not full does not wait for "
      .. "input that is slow to come.")
    :convert(integer("--batch", 1, 1000000))
    :argname("N")
    :default(100)
  command
    :option("--epoch", "For tests: begin this epoch, which must be above all that the log has (default: a new one, from the clock and "
      .. "random bits). "
      .. "Two copies of a log in which the same N was begun cannot be told apart.")
    :convert(integer("--epoch", 1, (1 << 62) - 1))
    :argname "N"
  command
    :option("--accept-loss", "Confirm a loss and go on without the lost records: copy each SHARD:SEQNO from the message of the error "
      .. "LOST. May be given more than once.")
    :convert(shard_mark "--accept-loss")
    :argname("SHARD:SEQNO")
    :count "*"
  command:epilog(EXIT_CODES)
end

local function add_follow(parser)
  local command = parser:command("follow", "Apply the records of a log, each once, and go on where the last run ended.")
  command:argument("dir", "The directory of the log."):convert(path)
  command:mutex(
    command
      :option("--db", "Keep the records in this SQLite database, in the table records (shard, seqno, record), each exactly once.")
      :convert(path)
      :argname "FILE",
    command
      :option("--state", "Keep the marks in this state file; the records go to --exec or --print.")
      :convert(state_path)
      :argname "FILE"
  )
  command:mutex(
    command
      :option("--exec", "Run this shell command for each batch, with its records on standard input, one a line. It must exit with 0 "
        .. "once its effect is durable; otherwise it is run again. TIDEMARK_SHARD, TIDEMARK_FIRST_SEQNO and TIDEMARK_LAST_SEQNO "
        .. "are set, so that it can tell a batch that it has had before, or one that was cut off when this program was killed.")
      :argname "CMD",
    command:flag("--print", "Write the records to standard output, one a line.")
  )
  command:flag("--once", "End when all that the log holds is applied; with 3 if a shard cannot go on with this log.")
  command:epilog(EXIT_CODES)
end

local function add_status(parser)
  local command = parser:command("status", "Show how far a log, a state file or a database has come.")
  command:argument("target", "The directory of a log, a state file, or a database of follow --db."):convert(state_path)
  command
    :option("--log", "Compare with this log: its heads, and whether its history is the one that was followed.")
    :convert(path)
    :argname "DIR"
  command:flag("--json", "One JSON object on one line: shard to applied, head, lag and verdict.")
  command:option("--watch", "Show it again every SECONDS (default: 1), until Ctrl-C."):convert(seconds):argname("SECONDS"):args "?"
  command:epilog(EXIT_CODES)
end

local function add_reset(parser)
  local command = parser:command "reset"
  command:summary "Lower a follower's progress: it applies the records after SEQNO again."
  command:description("Lower a follower's progress, where it has applied records that are not the right ones: it applies those after SEQNO "
    .. "again. End the follower first. Beside one, a state file is refused (LOCKED), but a database is not: the shard of that follower "
    .. "stops with an error (REPLACED) at the next record. With a database, the records after SEQNO are deleted from the table records in "
    .. "the same transaction. With a state file, the effects of the records after SEQNO are yours to take back first.")
  command:argument("file", "A state file, or a database of follow --db."):convert(state_path)
  command
    :argument("mark", "SHARD:SEQNO, a shard and the last record that it keeps, such as 0:17. SEQNO 0 makes the shard forget its log.")
    :args("+")
    :convert(shard_mark "reset")
  command:epilog(EXIT_CODES)
end

local function add_verify(parser)
  local command = parser:command("verify", "Read a whole log and check every byte of it.")
  command:argument("dir", "The directory of the log."):convert(path)
  command:epilog(EXIT_CODES)
end

local function add_inspect(parser)
  local command = parser:command("inspect", "Show what a state file holds: both slots, whether they are valid, the live file.")
  command:argument("file", "The state file. The heads of a log are one too: DIR/heads."):convert(path)
  command:epilog(EXIT_CODES)
end

local SALVAGE_EXIT_CODES = [[
exit codes:
   0  done, nothing is missing: NEWDIR is the same log, with its id, seqnos and epochs
   1  it failed and made nothing; the message says why and what to do
   2  wrong usage
   3  records are missing: NEWDIR is a new log with all that is whole; NEWDIR/salvaged says what became of each record.
      Also if DIR has no heads that can be read: NEWDIR is the same log, but nobody knows whether records at the end are missing]]

local function add_salvage(parser)
  local command = parser:command("salvage", "Make a sound log from a damaged one, which is left as it is.")
  command:argument("dir", "The directory of the damaged log. End its writer first."):convert(path)
  command:argument("newdir", "The directory to make. It must not be there, or be empty."):convert(path)
  command
    :option("--from", "Take what is missing from these copies or replicas of the log, where it is proved that DIR had the same records. "
      .. "They may be damaged, too. To be given after DIR and NEWDIR.")
    :convert(path)
    :args("+")
    :count("*")
    :action("concat")
    :argname("LOG")
  command
    :option("--shards", "How many shards DIR had, if it has no heads that can be read: those without records show nowhere else, and "
      .. "without them a key would go to another shard.")
    :convert(integer("--shards", 1, 65536))
    :argname "N"
  command:epilog(SALVAGE_EXIT_CODES)
end

local function make_parser()
  local parser = argparse("tidemark", "Append to a log, follow it, and see how far each has come, across crashes.")
  parser:usage_max_width(100):help_max_width(100)
  parser:flag("--version", "Print the version and exit."):action(function()
    print("tidemark " .. core.VERSION)
    os.exit(0)
  end)
  parser:command_target "command"
  for _, add in ipairs { add_append, add_follow, add_status, add_reset, add_verify, add_salvage, add_inspect } do
    add(parser)
  end
  parser:epilog(EXIT_CODES .. "\n\n`tidemark COMMAND --help` tells more.")
  function parser.error(self, message)
    io.stderr:write(("%s\n\nError: %s\n"):format(self:get_usage(), message))
    os.exit(2)
  end
  for _, command in ipairs(parser._commands) do
    command.error = parser.error
  end
  return parser
end

-- ---- running ----

local held = {} -- keeps the collector from closing what replaces a standard stream

-- If a standard stream is closed, the next file to be opened would be in its place, and what is printed would go into it. Opened the
-- wrong way round, so that a use fails as that of a closed one does.
local function fill_standard_streams()
  for fd = 0, 2 do
    local is_open = io.open(("/proc/self/fdinfo/%d"):format(fd))
    if is_open then
      is_open:close()
    else
      held[#held + 1] = io.open("/dev/null", fd == 0 and "w" or "r")
    end
  end
end

-- What an error of the command is about, for the advice. A directory is a log.
local function context_of(options)
  local context = { command = options.command, log = options.log or options.dir, db = options.db, state = options.state }
  if options.command == "status" and require("luv").fs_stat(options.target .. "/.") then
    context.log = options.target
  elseif options.command == "status" then
    context.file = options.target
  elseif options.command == "reset" then
    context.file = options.file
  elseif options.command == "inspect" then
    context.file, context.log = options.file, options.file:match "^(.*)/heads$"
  end
  return context
end

local cli = {}

--- Runs the command line `arguments`.
---@param arguments string[]
---@return integer exit_code
function cli.main(arguments)
  fill_standard_streams()
  local options = make_parser():parse(arguments)
  local command = require("tidemark.cli." .. options.command)
  local exit_code, message, code = command(options)
  if message then
    io.stderr:write("tidemark: ", advice(message, code, context_of(options)), "\n")
  end
  return exit_code
end

return cli
