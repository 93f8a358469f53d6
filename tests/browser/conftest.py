"""A real JupyterLab on 127.0.0.1 and a headless Chromium, both without any network."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

# Run All right after the kernel shows idle is dropped silently: every step is awaited in the page.
RUN_ALL = """async () => {
  const pause = () => new Promise(done => setTimeout(done, 50));
  const app = window.jupyterapp;
  await app.restored;
  while (!app.shell.currentWidget?.sessionContext || !app.shell.currentWidget.content?.model) await pause();
  const panel = app.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  while (!panel.sessionContext.session?.kernel) await pause();
  await panel.sessionContext.session.kernel.info;
  await app.commands.execute('notebook:run-all-cells');
  const cells = Array.from(panel.content.model.cells).filter(cell => cell.type === 'code');
  const done = () => cells.every(cell => cell.executionCount || !cell.sharedModel.getSource().trim());
  const failed = () => cells.some(cell => cell.outputs.toJSON().some(o => o.output_type === 'error'));
  while (!done() && !failed()) await pause();
  return cells.map(cell => ({
    source: cell.sharedModel.getSource(), count: cell.executionCount, outputs: cell.outputs.toJSON()}));
}"""


class Lab:
    """A running JupyterLab: its folder of notebooks and its address."""

    def __init__(self, folder):
        self.folder, self.token = folder / "notebooks", secrets.token_hex(16)
        self.folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
                  "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "PERFKIT_DATA")  # fmt: skip
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
            "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.folder}", f"--IdentityProvider.token={self.token}",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None",
            "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
        ]  # fmt: skip
        settings = folder / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
        self.log = open(folder / "server.log", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **{name: str(folder / name.lower()) for name in places}},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def request(self, path, method="GET"):
        address = f"http://127.0.0.1:{self.port}/{path}"
        head = {"Authorization": f"token {self.token}"}
        with urllib.request.urlopen(urllib.request.Request(address, method=method, headers=head)) as answer:
            return json.loads(answer.read() or "null")

    def wait(self, seconds=90):
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            try:
                return self.request("api/status")
            except OSError:
                time.sleep(0.2)
        self.log.seek(0)
        pytest.fail(f"JupyterLab did not start:\n{self.log.read()[-3000:]}")

    def close_sessions(self):
        for session in self.request("api/sessions"):
            self.request(f"api/sessions/{session['id']}", "DELETE")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory, chromium_path):
    server = Lab(tmp_path_factory.mktemp("lab"))
    server.wait()
    yield server
    server.stop()


@pytest.fixture(scope="module")  # not longer: while Playwright is open, nobody else can run an event loop
def chromium(chromium_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path,
            args=["--disable-gpu", "--disable-dev-shm-usage", "--no-sandbox", "--no-proxy-server"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page that reaches this machine only; what it asks of others fails the test."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    elsewhere = []

    def answer(route):
        elsewhere.append(route.request.url)
        route.abort()

    page.route(lambda url: not url.startswith(("http://127.0.0.1", "data:", "blob:", "file:")), answer)
    yield page
    page.close()
    assert not elsewhere, f"the page asked for {elsewhere[:3]}"


@pytest.fixture
def run_all(lab, page):
    """Open a notebook of the lab's folder, run all cells, return [{source, count, outputs}]."""

    def run(name):
        lab.close_sessions()
        page.goto(f"http://127.0.0.1:{lab.port}/lab/tree/{name}?reset&token={lab.token}")
        page.wait_for_function("() => window.jupyterapp")
        return page.evaluate(RUN_ALL)

    yield run
    lab.close_sessions()
