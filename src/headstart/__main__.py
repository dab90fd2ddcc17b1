"""python -m headstart."""

from headstart.processes import forget_current_folder

if __name__ == "__main__":
    forget_current_folder()
    from headstart.cli import main

    main()
