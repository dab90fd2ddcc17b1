"""python -m headstart."""

from headstart.machine.processes import forget_current_folder

if __name__ == "__main__":
    forget_current_folder()
    from headstart.cli.app import main

    main()
