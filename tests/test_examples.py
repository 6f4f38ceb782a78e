"""The worked example: it runs, and its page opens without an error."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "theory.py"


def test_the_theory_page_is_made_and_every_claim_holds(tmp_path, browser):
    out = subprocess.run([sys.executable, EXAMPLE, tmp_path], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert "16 claims checked" in out.stdout
    page = tmp_path / "theory.html"
    browser.get(page.as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return document.querySelectorAll('math').length") > 20
    assert browser.execute_script("return document.querySelectorAll('.check').length") == 16
    sizes = browser.execute_script("return Array.from(document.images).map(i => i.naturalWidth)")
    assert len(sizes) == 3
    assert min(sizes) > 300
