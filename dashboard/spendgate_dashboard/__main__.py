"""Serve the dashboard: `python -m spendgate_dashboard --port 8501 --api-url http://127.0.0.1:8700`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent

FLAGS: Final = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "server.enableStaticServing": "true",
    "server.maxUploadSize": "1",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "viewer",
    "client.showSidebarNavigation": "false",
    # Collecting garbage after every rerun made reruns 4 to 9 times slower under load.
    "runner.postScriptGC": "false",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--api-url", default=os.environ.get("SPENDGATE_API_URL", "http://127.0.0.1:8700"))
    options = parser.parse_args()
    os.environ["SPENDGATE_API_URL"] = options.api_url
    flags = FLAGS | {"server.address": options.host, "server.port": str(options.port)}
    given = [f"--{name}={value}" for name, value in flags.items()]
    # The theme is a file beside the app, and Streamlit looks for it in the working directory.
    os.chdir(HERE)
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", str(HERE / "app.py"), *given])  # noqa: S606


if __name__ == "__main__":
    main()
