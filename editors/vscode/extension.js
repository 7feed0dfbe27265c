// Starts `torchlint server` and hands it Python files and notebooks; everything else is the language client's.
"use strict";

const { spawn } = require("child_process");
const fs = require("fs");
const path = require("path");
const vscode = require("vscode");
const { CloseAction, LanguageClient } = require("vscode-languageclient/node");

let client;

/** Trouble at the start is told once, by `start`, with what to do about it; later trouble as every client tells it. */
class Client extends LanguageClient {
  error(message, data, show) {
    super.error(message, data, this.isRunning() && show);
  }
}

/** The program to run: the setting, an environment of a trusted workspace folder, or whatever the PATH has. */
function program() {
  const chosen = vscode.workspace.getConfiguration("torchlint").get("path");
  if (chosen) {
    return chosen;
  }
  const windows = process.platform === "win32";
  const folders = vscode.workspace.isTrusted ? vscode.workspace.workspaceFolders || [] : [];
  for (const folder of folders) {
    for (const environment of [".venv", "venv"]) {
      const found = windows
        ? path.join(folder.uri.fsPath, environment, "Scripts", "torchlint.exe")
        : path.join(folder.uri.fsPath, environment, "bin", "torchlint");
      if (fs.existsSync(found)) {
        return found;
      }
    }
  }
  return "torchlint";
}

/** Starts the process; what it writes to stderr goes to `said`, too. */
function launch(command, said) {
  const [folder] = vscode.workspace.workspaceFolders || [];
  return new Promise((resolve, reject) => {
    const cwd = folder && folder.uri.scheme === "file" ? folder.uri.fsPath : undefined;
    const server = spawn(command, ["server"], { cwd });
    server.stderr.on("data", (text) => said.push(text.toString()));
    server.once("spawn", () => resolve(server));
    server.once("error", reject);
  });
}

async function start() {
  const command = program();
  const debounce = vscode.workspace.getConfiguration("torchlint").get("debounce");
  const said = [];
  const started = new Client("torchlint", "torchlint", () => launch(command, said), {
    documentSelector: [
      { scheme: "file", language: "python" },
      { scheme: "untitled", language: "python" },
      { scheme: "vscode-notebook", language: "python" },
      { scheme: "vscode-notebook-cell", language: "python" },
    ],
    initializationOptions: { debounce },
    initializationFailedHandler: () => false,
    errorHandler: {
      error: (...about) => restarting.error(...about),
      closed: () => (started.isRunning() ? restarting.closed() : { action: CloseAction.DoNotRestart, handled: true }),
    },
  });
  const restarting = started.createDefaultErrorHandler();
  client = started;
  try {
    await started.start();
  } catch (error) {
    const last = said.join("").trim().split("\n").pop(); // it says itself what to do
    const missing = error.code === "ENOENT" ? `there is no program ${command}` : error.message || error;
    const why = last || `${missing}. Install it with: pip install 'torchlint[server]'`;
    const settings = "Open Settings";
    const chosen = await vscode.window.showErrorMessage(
      `The server does not start: ${why.replace(/^torchlint: /, "")}, or set torchlint.path to another torchlint.`,
      settings,
    );
    if (chosen === settings) {
      await vscode.commands.executeCommand("workbench.action.openSettings", "torchlint.path");
    }
  }
}

async function stop() {
  const old = client;
  client = undefined;
  if (old && old.needsStop()) {
    await old.stop();
  }
}

async function restart() {
  await stop();
  await start();
}

async function activate(context) {
  context.subscriptions.push(
    vscode.commands.registerCommand("torchlint.restart", restart),
    vscode.workspace.onDidGrantWorkspaceTrust(restart),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration("torchlint.path") || event.affectsConfiguration("torchlint.debounce")) {
        return restart();
      }
      return undefined;
    }),
  );
  await start();
}

module.exports = { activate, deactivate: stop };
