from services.forward.main import main

main()
