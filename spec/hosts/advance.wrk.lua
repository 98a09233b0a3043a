--- For wrk: each of its threads advances each of four shards to QUOTA seqnos of its own, all of them the same shards. An answer
--- must tell a mark that is there. What was not answered (a reload closes connections) is sent again, for to advance twice is to
--- advance once. A thread that has all its answers prints "complete" and goes on with reading. SIGINT ends it.
---
---     wrk -t4 -c32 -d60s -s advance.wrk.lua http://127.0.0.1:8081 -- QUOTA STEP FIRST [QUERY]
---
--- STEP is at least the number of threads. QUERY is how the server wants shard and seqno, "%s:%s" by default.
-- luacheck: globals setup init request response done wrk id quota step first query base
-- luacheck: globals sent answered bad served acknowledged waiting complete

local threads = {}

function setup(thread)
  thread:set("id", #threads)
  threads[#threads + 1] = thread
end

function init(arguments)
  quota, step, first = tonumber(arguments[1]), tonumber(arguments[2]), tonumber(arguments[3])
  query = arguments[4] or "%s:%s"
  base = wrk.path:gsub("/$", "")
  sent, answered, bad, complete = 0, 0, "", false
  served, acknowledged = {}, {}
  waiting = {} -- tokens without an answer
end

function request()
  local token
  if sent < quota then
    token = ("%d:%d"):format(sent % 4, first + math.floor(sent / 4) * step + id)
    sent = sent + 1
    waiting[token] = true
  else
    token = next(waiting)
    if not token then
      if not complete then
        complete = true
        io.write "complete\n"
        io.flush()
      end
      return wrk.format("GET", base .. "/marks")
    end
  end
  local shard, seqno = token:match "(.*):(.*)"
  return wrk.format("POST", base .. "/advance?" .. query:format(shard, seqno), nil, "")
end

function response(status, _, body)
  local shard, seqno, mark = body:match '"shard":(%d+),"seqno":(%d+),"moved":%l+,"mark":(%d+)'
  if status ~= 200 or mark and tonumber(mark) < tonumber(seqno) then
    bad = ("%d %s"):format(status, body)
  elseif mark then
    answered = answered + 1
    waiting[shard .. ":" .. seqno] = nil
    served[body:match '"thread":(%d+)' or "0"] = true
    acknowledged[shard] = math.max(acknowledged[shard] or 0, tonumber(seqno))
  end
end

function done()
  local total, by, highest = 0, {}, {}
  for _, thread in ipairs(threads) do
    total = total + thread:get "answered"
    for name in pairs(thread:get "served") do
      by[name] = true
    end
    for shard, seqno in pairs(thread:get "acknowledged") do
      highest[shard] = math.max(highest[shard] or 0, seqno)
    end
    if thread:get "bad" ~= "" then
      print("bad: " .. thread:get "bad")
    end
  end
  print(("answered: %d"):format(total))
  for name in pairs(by) do
    print("by thread: " .. name)
  end
  for shard, seqno in pairs(highest) do
    print(("acknowledged: %s:%d"):format(shard, seqno))
  end
end
