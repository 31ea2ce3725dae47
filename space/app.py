"""captionkit as a Hugging Face Space: the web page, with the REST API below it."""

import os
import sys
from pathlib import Path

# captionkit's sources: beside this file in a Space, one folder up in a checkout.
here = Path(__file__).resolve().parent
sys.path[:0] = [str(folder / "src") for folder in (here, here.parent) if (folder / "src" / "captionkit").is_dir()]

from captionkit.serve.server import serve  # noqa: E402
from captionkit.serve.settings import Settings  # noqa: E402
from captionkit.utils.progress import log_to_console  # noqa: E402

if __name__ == "__main__":
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    with log_to_console():
        serve(os.environ.get("CAPTIONKIT_MODEL"), Settings(host="0.0.0.0", port=port))
