// Starts `torchlint server` and hands it Python files and notebooks; everything else is the language client's.
"use strict";

const fs = require("fs");
const path = require("path");
const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

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

async function start() {
  const command = program();
  const debounce = vscode.workspace.getConfiguration("torchlint").get("debounce");
  client = new LanguageClient(
    "torchlint",
    "torchlint",
    { command, args: ["server"] },
    {
      documentSelector: [
        { scheme: "file", language: "python" },
        { scheme: "untitled", language: "python" },
        { scheme: "vscode-notebook", language: "python" },
        { scheme: "vscode-notebook-cell", language: "python" },
      ],
      initializationOptions: { debounce },
    },
  );
  try {
    await client.start();
  } catch (error) {
    vscode.window.showErrorMessage(
      `${command} could not be started (${error.message}). Install it with: pip install 'torchlint[server]', ` +
        "or set torchlint.path.",
    );
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
