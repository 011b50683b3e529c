// The published TypeScript client, unmodified: sizes, previews, signed URLs, restarts.
// Run by tests/acceptance/test_typescript_client.py, which sets OPENCOMPUTER_API_URL and OPENCOMPUTER_API_KEY.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Sandbox } from "@opencomputer/sdk";

describe("what hangs on a sandbox", () => {
  let sandbox;

  before(async () => {
    sandbox = await Sandbox.create({ memoryMB: 1024, previewAuth: { token: "auto" } });
  });

  after(async () => {
    await sandbox.kill();
  });

  async function said(command) {
    const result = await sandbox.exec.run(command);
    assert.equal(result.exitCode, 0, result.stderr);
    return result.stdout;
  }

  test("grows, and the guest has it", async () => {
    const size = await sandbox.scale({ memoryMB: 2048 });
    assert.equal(size.memoryMB, 2048);
    assert.ok(Number(await said("awk '/MemTotal/ {print $2}' /proc/meminfo")) / 1024 > 0.88 * 2048);
  });

  test("shows a port, behind a token that can be changed", async () => {
    const first = sandbox.previewAuthToken;
    assert.ok(first.length >= 43);
    const record = await sandbox.createPreviewURL({ port: 3000 });
    assert.equal(record.port, 3000);
    assert.deepEqual((await sandbox.listPreviewURLs()).map((one) => one.port), [3000]);
    assert.notEqual(await sandbox.rotatePreviewAuthToken(), first);
    await sandbox.deletePreviewURL(3000);
  });

  test("gives files by URL", async () => {
    const put = await fetch(await sandbox.uploadUrl("/workspace/f"), { method: "PUT", body: "by url" });
    assert.equal(put.status, 204);
    assert.equal(await (await fetch(await sandbox.downloadUrl("/workspace/f"))).text(), "by url");
  });

  test("keeps its disk through reboot and power-cycle", async () => {
    await sandbox.reboot();
    assert.equal(await said("cat /workspace/f"), "by url");
    await sandbox.powerCycle();
    assert.equal(await said("cat /workspace/f"), "by url");
  });
});
