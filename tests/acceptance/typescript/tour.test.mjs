// The published TypeScript client, unmodified: create, commands, files, timeout, kill.
// Run by tests/acceptance/test_typescript_client.py, which sets OPENCOMPUTER_API_URL and OPENCOMPUTER_API_KEY.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, describe, test } from "node:test";

import { ExecTimeoutError, Sandbox } from "@opencomputer/sdk";

const MIB = 1024 * 1024;

function patternOf(size) {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i += 1) bytes[i] = (i * 31 + (i >> 9)) & 255;
  return bytes;
}

function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

function streamOf(bytes, chunkSize) {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.slice(at, at + chunkSize));
      at += chunkSize;
    },
  });
}

describe("a sandbox for many calls", { concurrency: true }, () => {
  let sandbox;

  before(async () => {
    sandbox = await Sandbox.create({ envs: { GREETING: "grüß dich" }, metadata: { for: "typescript" } });
  });

  after(async () => {
    await sandbox.kill();
    assert.equal(await sandbox.isRunning(), false);
  });

  test("is running and names its preview domain", async () => {
    assert.equal(sandbox.status, "running");
    assert.match(sandbox.domain, new RegExp(`^${sandbox.sandboxId}-p80\\.`));
    assert.equal(await sandbox.isRunning(), true);
  });

  test("connect finds it again", async () => {
    const again = await Sandbox.connect(sandbox.sandboxId);
    assert.equal((await again.exec.run("echo $GREETING")).stdout, "grüß dich\n");
  });

  test("exit codes and both streams come back", async () => {
    assert.deepEqual(await sandbox.exec.run("echo out; echo err >&2; exit 42"), {
      exitCode: 42,
      stdout: "out\n",
      stderr: "err\n",
    });
    assert.equal((await sandbox.commands.run("kill -9 $$")).exitCode, -1);
  });

  test("environment and directory", async () => {
    const result = await sandbox.exec.run("echo $EXTRA; pwd", { env: { EXTRA: "x y" }, cwd: "/tmp" });
    assert.equal(result.stdout, "x y\n/tmp\n");
    await assert.rejects(sandbox.exec.run("true", { cwd: "/no/such/directory" }), /exec_failed|directory/);
  });

  test("a command may take longer than thirty seconds", async () => {
    const result = await sandbox.exec.run("echo begun; sleep 32; echo slept", { timeout: 300 });
    assert.deepEqual([result.exitCode, result.stdout], [0, "begun\nslept\n"]);
  });

  test("a timeout ends the command and is no error", async () => {
    const result = await sandbox.exec.run("echo begun; sleep 778", { timeout: 10 });
    assert.deepEqual([result.exitCode, result.stdout], [-1, "begun\n"]);
    assert.match(result.stderr, /Process timed out$/);
  });

  test("the client may give up and the command goes on", async () => {
    await assert.rejects(
      sandbox.exec.run("sleep 12; echo finished > /tmp/given-up", { timeoutMs: 8000 }),
      ExecTimeoutError,
    );
    const seen = await sandbox.exec.run("for i in $(seq 200); do cat /tmp/given-up && exit; sleep 0.5; done", { timeout: 200 });
    assert.match(seen.stdout, /finished/);
  });

  test("large output is whole", async () => {
    const result = await sandbox.exec.run("seq -f %08.0f 1 400000", { timeout: 120 });
    assert.equal(result.exitCode, 0);
    assert.equal(result.stdout.length, 9 * 400000);
    assert.ok(result.stdout.startsWith("00000001\n") && result.stdout.endsWith("00400000\n"));
  });

  test("output that is no text is replaced", async () => {
    assert.equal((await sandbox.exec.run("printf 'a\\377b\\303\\251'")).stdout, "a\uFFFDbé");
  });

  test("files keep every byte", async () => {
    const bytes = patternOf(100_000);
    await sandbox.files.write("/workspace/ts/every byte+&ü.bin", bytes);
    assert.deepEqual(await sandbox.files.readBytes("/workspace/ts/every byte+&ü.bin"), bytes);
    await sandbox.files.write("ts-notes.txt", "Übung\n");
    assert.equal(await sandbox.files.read("/home/sandbox/ts-notes.txt"), "Übung\n");
    await sandbox.files.write("ts-empty", new Uint8Array());
    assert.equal((await sandbox.files.readBytes("ts-empty")).length, 0);
  });

  test("a large file goes in as a stream and out whole", async () => {
    const bytes = patternOf(16 * MIB + 17);
    await sandbox.files.write("/workspace/ts-large.bin", streamOf(bytes, 100_003));
    const inside = await sandbox.exec.run("sha256sum < /workspace/ts-large.bin");
    assert.equal(inside.stdout.split(" ")[0], sha256(bytes));
    assert.equal(sha256(await sandbox.files.readBytes("/workspace/ts-large.bin")), sha256(bytes));
  });

  test("directories are made, listed and removed", async () => {
    const { files } = sandbox;
    await files.makeDir("/workspace/ts-tree/branch");
    await files.write("/workspace/ts-tree/leaf", "12345");
    const listed = (await files.list("/workspace/ts-tree")).map((e) => [e.name, e.isDir, e.path, e.isDir ? 0 : e.size]);
    assert.deepEqual(listed, [
      ["branch", true, "/workspace/ts-tree/branch", 0],
      ["leaf", false, "/workspace/ts-tree/leaf", 5],
    ]);
    await files.remove("/workspace/ts-tree");
    assert.equal(await files.exists("/workspace/ts-tree/leaf"), false);
    await files.remove("/workspace/ts-tree");
  });

  test("exists tells files from what is none", async () => {
    await sandbox.files.write("ts-present", "");
    assert.equal(await sandbox.files.exists("ts-present"), true);
    assert.equal(await sandbox.files.exists("ts-absent"), false);
    assert.equal(await sandbox.files.exists("/workspace"), false);
    await assert.rejects(sandbox.files.read("ts-absent"), /404/);
  });

  test("the timeout is set", async () => {
    await sandbox.setTimeout(4321);
    await assert.rejects(sandbox.setTimeout(-1), /400/);
    await sandbox.setTimeout(0);
  });
});

test("sizes are honoured", async () => {
  const sandbox = await Sandbox.create({ memoryMB: 1280, cpuCount: 2 });
  try {
    assert.equal((await sandbox.exec.run("cat /sys/fs/cgroup/sandbox/cpu.max")).stdout, "200000 100000\n");
  } finally {
    await sandbox.kill();
  }
});

test("what is wrong with a create is said", async () => {
  await assert.rejects(Sandbox.create({ template: "no-such-template" }), /400.*unknown_template/s);
  await assert.rejects(Sandbox.create({ apiKey: "osb_wrong" }), /403.*invalid_api_key/s);
});

test("a killed sandbox stays dead", async () => {
  const sandbox = await Sandbox.create();
  await sandbox.kill();
  await assert.rejects(sandbox.exec.run("true"), /410.*gone/s);
  await sandbox.kill();
});
