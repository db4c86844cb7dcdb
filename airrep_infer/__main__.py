"""`python -m airrep_infer` is `airrep-infer`."""

from airrep_infer.cli import main

if __name__ == "__main__":
    main()
