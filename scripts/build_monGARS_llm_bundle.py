"""scripts.build_llm_bundle under the name that the design documents give it."""

import runpy

runpy.run_module("scripts.build_llm_bundle", run_name="__main__")
