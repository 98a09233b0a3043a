rockspec_format = "3.0"
package = "tidemark"
version = "scm-1"
source = {
  url = "git+file://.", -- built in place: luarocks make
}
description = {
  summary = "High-water marks of a replication follower, shared by threads and processes",
  detailed = [[
    ReplicationState holds one high-water mark per shard in C11 atomics. Marks only go forward, are shared by all
    threads and processes of a node, and are made durable with one fdatasync.
  ]],
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = {
  "lua >= 5.3",
  "argparse", -- these three for bin/tidemark
  "lua-cjson",
  "luv",
}
build = {
  type = "builtin",
  modules = {
    ["tidemark"] = "lua/tidemark/init.lua",
    ["tidemark.batch"] = "lua/tidemark/batch.lua",
    ["tidemark.cli"] = "lua/tidemark/cli/init.lua",
    ["tidemark.cli.advice"] = "lua/tidemark/cli/advice.lua",
    ["tidemark.cli.append"] = "lua/tidemark/cli/append.lua",
    ["tidemark.cli.databases"] = "lua/tidemark/cli/databases.lua",
    ["tidemark.cli.files"] = "lua/tidemark/cli/files.lua",
    ["tidemark.cli.follow"] = "lua/tidemark/cli/follow.lua",
    ["tidemark.cli.inspect"] = "lua/tidemark/cli/inspect.lua",
    ["tidemark.cli.lines"] = "lua/tidemark/cli/lines.lua",
    ["tidemark.cli.reset"] = "lua/tidemark/cli/reset.lua",
    ["tidemark.cli.salvage"] = "lua/tidemark/cli/salvage.lua",
    ["tidemark.cli.signals"] = "lua/tidemark/cli/signals.lua",
    ["tidemark.cli.status"] = "lua/tidemark/cli/status.lua",
    ["tidemark.cli.terminal"] = "lua/tidemark/cli/terminal.lua",
    ["tidemark.cli.typed"] = "lua/tidemark/cli/typed.lua",
    ["tidemark.cli.verify"] = "lua/tidemark/cli/verify.lua",
    ["tidemark.epochs"] = "lua/tidemark/epochs.lua",
    ["tidemark.follower"] = "lua/tidemark/follower.lua",
    ["tidemark.follower.call"] = "lua/tidemark/follower/call.lua",
    ["tidemark.follower.saving"] = "lua/tidemark/follower/saving.lua",
    ["tidemark.follower.setup"] = "lua/tidemark/follower/setup.lua",
    ["tidemark.follower.shards"] = "lua/tidemark/follower/shards.lua",
    ["tidemark.follower.standing"] = "lua/tidemark/follower/standing.lua",
    ["tidemark.follower.verdict"] = "lua/tidemark/follower/verdict.lua",
    ["tidemark.options"] = "lua/tidemark/options.lua",
    ["tidemark.protected"] = "lua/tidemark/protected.lua",
    ["tidemark.replication_state"] = "lua/tidemark/replication_state.lua",
    ["tidemark.salvage"] = "lua/tidemark/salvage.lua",
    ["tidemark.salvage.plan"] = "lua/tidemark/salvage/plan.lua",
    ["tidemark.salvage.proof"] = "lua/tidemark/salvage/proof.lua",
    ["tidemark.salvage.scan"] = "lua/tidemark/salvage/scan.lua",
    ["tidemark.salvage.survey"] = "lua/tidemark/salvage/survey.lua",
    ["tidemark.state_target"] = "lua/tidemark/state_target.lua",
    ["tidemark.wal"] = "lua/tidemark/wal.lua",
    ["tidemark.core"] = {
      sources = {
        "csrc/core/batch.c",
        "csrc/core/checkpoint.c",
        "csrc/core/checkpoint_file.c",
        "csrc/core/crc32c.c",
        "csrc/core/epoch.c",
        "csrc/core/error.c",
        "csrc/core/inspect.c",
        "csrc/core/io.c",
        "csrc/core/live_file.c",
        "csrc/core/log.c",
        "csrc/core/notes.c",
        "csrc/core/segment.c",
        "csrc/core/state.c",
        "csrc/core/state_file.c",
        "csrc/core/state_reset.c",
        "csrc/core/state_save.c",
        "csrc/core/wait.c",
        "csrc/core/wal.c",
        "csrc/core/wal_epoch.c",
        "csrc/core/wal_open.c",
        "csrc/core/wal_reader.c",
        "csrc/core/wal_recover.c",
        "csrc/core/wal_source.c",
        "csrc/core/wal_tools.c",
        "csrc/core/watch.c",
        "csrc/lua/arguments.c",
        "csrc/lua/batch.c",
        "csrc/lua/clock.c",
        "csrc/lua/module.c",
        "csrc/lua/replication_state.c",
        "csrc/lua/wal.c",
        "csrc/lua/wal_source.c",
        "csrc/lua/watch.c",
      },
      incdirs = { "csrc/include" },
      defines = { "TIDEMARK_MODULE" },
    },
  },
  install = {
    bin = { "bin/tidemark" },
  },
}
test = {
  type = "command",
  command = "make test",
}
