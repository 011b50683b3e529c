// The published TypeScript client, unmodified: exec sessions, shells, terminals.
// Run by tests/acceptance/test_typescript_client.py, which sets OPENCOMPUTER_API_URL and OPENCOMPUTER_API_KEY.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Sandbox } from "@opencomputer/sdk";

class Heard {
  text = "";
  #waiting = [];

  take = (bytes) => {
    this.text += Buffer.from(bytes).toString();
    this.#waiting = this.#waiting.filter(([wanted, resolve]) => !this.text.includes(wanted) || resolve());
  };

  until(wanted) {
    if (this.text.includes(wanted)) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push([wanted, resolve]));
  }
}

describe("sessions", { timeout: 300_000 }, () => {
  let sandbox;

  before(async () => {
    sandbox = await Sandbox.create({ envs: { GREETING: "hello" } });
  });

  after(async () => {
    await sandbox?.kill();
  });

  test("a session streams both outputs, takes input and tells its exit code", async () => {
    const [out, err] = [new Heard(), new Heard()];
    const session = await sandbox.exec.start("sh", {
      args: ["-c", "echo $GREETING $MORE; echo err >&2; read line; echo got $line; exit 7"],
      env: { MORE: "world" },
      onStdout: out.take,
      onStderr: err.take,
    });
    await out.until("hello world\n");
    const listed = await sandbox.exec.list();
    assert.ok(listed.find((one) => one.sessionID === session.sessionId).running);
    session.sendStdin("input\n");
    assert.equal(await session.done, 7);
    assert.equal(out.text, "hello world\ngot input\n");
    assert.equal(err.text, "err\n");

    const again = new Heard();
    const later = await sandbox.exec.attach(session.sessionId, { onStdout: again.take });
    assert.equal(await later.done, 7);
    assert.equal(again.text, out.text);
  });

  test("a kill ends a session", async () => {
    const session = await sandbox.exec.start("sleep", { args: ["300"] });
    await session.kill();
    assert.equal(await session.done, -1);
  });

  test("a shell keeps its state", async () => {
    const shell = await sandbox.exec.shell();
    assert.equal((await shell.run("cd /workspace && export A=5")).exitCode, 0);
    const result = await shell.run("pwd; echo $A; echo err >&2; false");
    assert.deepEqual([result.exitCode, result.stdout, result.stderr], [1, "/workspace\n5\n", "err\n"]);
    await shell.close();
  });

  test("a terminal says what it said before anybody listened", async () => {
    const heard = new Heard();
    const terminal = await sandbox.pty.create({ cols: 91, rows: 33, onOutput: heard.take });
    await heard.until("$ ");
    terminal.send("stty size; echo $TERM-$USER-$GREETING\n");
    await heard.until("33 91\r\n");
    await heard.until("xterm-256color-sandbox-hello\r\n");
    terminal.close();
  });
});
