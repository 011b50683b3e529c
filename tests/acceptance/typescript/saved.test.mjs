// The published TypeScript client, unmodified: hibernate, wake, checkpoints, restore, fork.
// Run by tests/acceptance/test_typescript_client.py, which sets OPENCOMPUTER_API_URL and OPENCOMPUTER_API_KEY.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Sandbox } from "@opencomputer/sdk";

async function said(sandbox, command) {
  const result = await sandbox.exec.run(command);
  assert.equal(result.exitCode, 0, result.stderr);
  return result.stdout;
}

async function readyCheckpoint(sandbox, name) {
  const made = await sandbox.createCheckpoint(name);
  assert.equal(made.status, "processing");
  for (let tries = 0; tries < 1000; tries += 1) {
    const found = (await sandbox.listCheckpoints()).find((one) => one.id === made.id);
    if (found.status === "ready") return found;
    assert.equal(found.status, "processing");
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  assert.fail("the checkpoint is not ready");
}

describe("what is saved", () => {
  let sandbox;

  before(async () => {
    sandbox = await Sandbox.create({ memoryMB: 512, envs: { WHO: "parent" } });
  });

  after(async () => {
    await sandbox.kill();
  });

  test("comes back with wake", async () => {
    await said(sandbox, "echo memory > /dev/shm/note; echo disk > /workspace/note");
    await sandbox.hibernate();
    assert.equal(sandbox.status, "hibernated");
    assert.equal(await sandbox.isRunning(), false);
    await sandbox.wake();
    assert.equal(await said(sandbox, "cat /dev/shm/note /workspace/note"), "memory\ndisk\n");
  });

  test("comes back by itself when it is called", async () => {
    await sandbox.hibernate();
    assert.equal(await sandbox.files.read("/workspace/note"), "disk\n");
    await sandbox.hibernate();
    assert.equal(await said(sandbox, "cat /dev/shm/note"), "memory\n");
  });

  test("can be gone back to and forked", async () => {
    await said(sandbox, "echo one > /tmp/note");
    const checkpoint = await readyCheckpoint(sandbox, "first");
    assert.ok(checkpoint.sizeBytes > 0);
    await said(sandbox, "echo two > /tmp/note");
    const fork = await Sandbox.createFromCheckpoint(checkpoint.id, { envs: { WHO: "fork" } });
    try {
      assert.equal(await said(fork, "cat /tmp/note; echo $WHO"), "one\nfork\n");
      assert.notEqual(await said(fork, "cat /etc/machine-id"), await said(sandbox, "cat /etc/machine-id"));
    } finally {
      await fork.kill();
    }
    await sandbox.restoreCheckpoint(checkpoint.id);
    assert.equal(await said(sandbox, "cat /tmp/note; echo $WHO"), "one\nparent\n");
    await sandbox.deleteCheckpoint(checkpoint.id);
    assert.deepEqual(await sandbox.listCheckpoints(), []);
  });
});
